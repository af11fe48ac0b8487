"""What tells configs apart, in few words."""

from bmojo.evaluation.bindings import bindings, difference, distinguishing, shown


def test_bindings_of_a_config():
    text = "# A comment = no binding\n\nimport mine\n\nA.b = (@C(),)\ns/A.b = 'x = y'\n"
    assert bindings(text) == {"A.b": "(@C(),)", "s/A.b": "'x = y'"}


def test_difference_names_what_only_one_has():
    one, other = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "4", "d": "5"}
    assert list(difference(one, other)) == [("b", "2", "4"), ("c", "3", None), ("d", None, "5")]


def test_one_key_is_enough_if_it_tells_all_apart():
    configs = [{"A.x": str(n), "A.y": str(n // 2), "A.z": "0"} for n in range(4)]
    assert distinguishing(configs) == ["A.x"]


def test_a_grid_takes_its_keys_and_what_all_bind_goes_first():
    configs = [
        {"M.pattern": kind, "O.rate": rate, f"{kind}.own": rate}
        for kind in ("A", "B")
        for rate in ("1", "2", "3")
    ]
    assert distinguishing(configs) == ["O.rate", "M.pattern"]


def test_equal_configs_stay_equal():
    assert distinguishing([{"a": "1"}, {"a": "1"}]) == []
    assert distinguishing([{"a": "1"}]) == []


def test_shown_is_short_and_keeps_what_it_must():
    config = {"near/A.w": "1", "far/A.w": "2", "M.pattern": "(@B(), @MLP())", "M.s": "'conv'"}
    assert shown(config, ["M.pattern", "M.s"]) == "pattern=(B, MLP), s=conv"
    assert shown(config, ["near/A.w", "far/A.w", "gone.x"]) == "near/A.w=1, far/A.w=2"
