"""What can go wrong with `bmojo sweep` and `bmojo report`."""

from tests.mistakes.plant import nothing, several, write

SWEEP = "Sweep.configs = ('tiny.gin',)\n"

SWEEPS = {
    "no such sweep": (
        nothing, "sweep nowhere.gin",
        "command line: no config file 'nowhere.gin'; looked in ..."),
    "unknown config": (
        write("s.gin", "Sweep.configs = ('tinny.gin',)"), "sweep s.gin",
        "s.gin: no config file 'tinny.gin'; ..."),
    "no sweep": (
        nothing, "sweep tiny.gin",
        "tiny.gin:1: Experiment.model: nothing is called 'Experiment'; choose one of Sweep"),
    "empty grid": (
        write("s.gin", SWEEP + "Sweep.grid = {'Stage.steps': ()}"), "sweep s.gin",
        "s.gin:2: Sweep.grid: 'Stage.steps' has (); give a tuple of values, such as (1, 2)"),
    "no seeds": (
        write("s.gin", SWEEP + "Sweep.seeds = ()"), "sweep s.gin",
        "s.gin:2: Sweep.seeds: is empty; give at least one"),
    "two cells of one name": (
        write("s.gin", SWEEP + "Sweep.cells = (('a', 'Stage.steps=2'), ('a', 'Stage.steps=3'))"),
        "sweep s.gin",
        "s.gin: two runs are called 'tiny-a-seed0': tiny.gin Stage.steps=2 and tiny.gin "
        "Stage.steps=3; give them names of their own in Sweep.cells or Sweep.labels"),
    "wrong cell": (
        write("s.gin", SWEEP + "Sweep.cells = (('a', 'Stage.stps=2'),)"), "sweep s.gin",
        "s.gin: tiny-a-seed0: Stage.stps=2: Stage.stps: Stage has no parameter 'stps'; did you "
        "mean 'steps'?"),
    "the best of an unknown evaluation": (
        write("s.gin", SWEEP), "sweep s.gin \"Trainer.best='recal/loss'\"",
        "s.gin: tiny-seed0: Trainer.best='recal/loss': Trainer.best: 'recal/loss': no evaluation "
        "is called 'recal'; did you mean 'recall'?"),
    "no such cell": (
        write("s.gin", SWEEP), "sweep s.gin --only big",
        "--only big: no cell has such a name; choose one of tiny"),
    "out is a file": (
        write("s.gin", SWEEP), "sweep s.gin --out tiny.gin",
        "tiny.gin: the folder of the runs cannot be made (File exists); choose another with "
        "--out"),
    "a folder of other files for a cell": (
        several(
            write("s.gin", SWEEP), write("runs/s/tiny-seed0/notes.txt", "mine")),
        "sweep s.gin",
        "...runs/s/tiny-seed0: holds files, but no run; choose another folder with --out, or move "
        "them away"),
    "no text": (
        write("s.gin", "Sweep.configs = ('prose.gin',)"),
        "sweep s.gin train/Text.length=100000",
        "prose-seed0: Text.length: the split 'train' of prepared has ...; lower Text.length, or "
        "prepare more text"),
}  # fmt: skip

REPORT = {
    "nothing there": (
        nothing, "report nowhere",
        "nowhere: no such directory; give run directories, or folders of them"),
    "no runs": (
        nothing, "report books",
        "books: no runs are here; train some with bmojo train or bmojo sweep"),
    "no finished run": (
        nothing, "report run",
        "none of the 1 runs is finished; let them finish with bmojo train"),
    "broken metrics": (
        write("run/metrics.jsonl", "{\n"), "report run",
        "run/metrics.jsonl:1: is no record of a run; delete the line, and the run goes on"),
    "foreign summary": (
        write("run/summary.json", "{}"), "report run",
        "run/summary.json: has no 'status'; it is not of a run of bmojo train, leave it out"),
}  # fmt: skip
