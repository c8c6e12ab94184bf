"""What holds for every figure and table."""

KINDS = {"png": b"\x89PNG", "pdf": b"%PDF"}


def assert_best_of_the_tried(tuned):
    """Rates by the validation loss, and not at an end of those tried; of the decays at that rate the best one."""
    for row in tuned:
        losses = {lr: loss for lr, loss, _ in row["rates"] if loss is not None}
        assert losses[row["lr"]] == min(losses.values())
        rates = [lr for lr, *_ in row["rates"]]
        assert min(rates) < row["lr"] < max(rates)
        decays = {decay: loss for decay, loss, _ in row["decays"] if loss is not None}
        assert decays[row["weight_decay"]] == min(decays.values()) and decays[0] == losses[row["lr"]]


class ItemContract:
    """Tests of a quick run, for a test module that names its ITEMS."""

    def test_files(self, item, out, fresh):
        """Numbers of a quick run, and every picture in both formats."""
        assert fresh["quick"] and fresh[item.kind] == item.name
        assert {"python", "dlrt", "numpy", *getattr(item.load(), "PACKAGES", ())} <= fresh["versions"].keys()
        for suffix in item.draw(fresh):
            for kind, start in KINDS.items():
                assert (out / f"{item.stem}{suffix}.{kind}").read_bytes().startswith(start)

    def test_statements_follow_from_the_numbers(self, item, fresh):
        assert item.statements(fresh) == fresh["statements"]

    def test_a_second_run_finds_everything_done(self, item, out, fresh):
        calls = []
        assert item.run(out, quick=True, progress=lambda *args: calls.append(args)) == fresh
        assert not calls
