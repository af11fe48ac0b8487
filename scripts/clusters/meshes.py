"""Train every model of the family on several meshes and compare with no mesh.

    python -m scripts.clusters.meshes [--models bmojo mamba ...] [--steps 20] [--out FILE.json]

Prints, for each model and mesh of eight forced host devices, the largest difference of the
loss over the steps, and the bytes that one device holds: parameters, optimizer state, and
XLA's temporary memory of a step, in which the activations are. Results that FILE.json has are not
measured again.
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np

from bmojo.training.sharding import MeshConfig
from scripts.clusters import mesh_steps
from scripts.records import markdown


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=mesh_steps.MODELS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    # Eight devices need as many threads at once, or they wait for one another for ever.
    os.environ.setdefault("NPROC", "32")
    jax.config.update("jax_num_cpu_devices", 8)

    known = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    rows = []
    for name in args.models:
        config = mesh_steps.model_of(name)
        for mesh in (None, *mesh_steps.MESHES):
            key = f"{name} {'x'.join(map(str, mesh)) if mesh else 'none'}"
            if key not in known:
                result = mesh_steps.train(config, MeshConfig(*mesh) if mesh else None, args.steps)
                known[key] = dataclasses.asdict(result)
                if args.out:
                    args.out.write_text(json.dumps(known) + "\n")
            found, alone = known[key], known[f"{name} none"]
            apart = np.abs(np.subtract(found["losses"], alone["losses"])).max()
            where = "x".join(map(str, mesh)) if mesh else "no mesh"
            sizes = [f"{found[k]:,}" for k in ("parameters", "optimizer", "temporary")]
            rows.append([name, where, f"{apart:.1e}", f"{found['losses'][-1]:.3f}", *sizes])
            print(*rows[-1], f"compiled in {found['compile_seconds']:.0f} s", flush=True)
    head = ["model", "data x fsdp x tensor x sequence", "largest difference", "last loss"]
    print("\n" + markdown([*head, "parameters", "optimizer", "temporary"], rows))


if __name__ == "__main__":
    main()
