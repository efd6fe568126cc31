"""What the page's wiring answers, without a browser."""

from __future__ import annotations

from dreambooth.ui.page import Page


def test_a_look_that_was_asked_for_before_create_does_not_forget_what_is_awaited(desk, mini):
    """It arrives after Create has noted the new model's name, and must not put the empty one back."""
    page = Page(desk)
    page.blocks()

    def awaited_after(awaited: str):
        return page.follower.look("mini", None, awaited)[3]

    assert awaited_after("mini") == ""
    for awaited in ("", "not there yet"):
        answer = awaited_after(awaited)
        assert answer.get("__type__") == "update" and "value" not in answer


def test_what_needs_a_model_waits_for_one(desk, models_dir):
    page = Page(desk)
    page.blocks()
    tools = page.input.tools.buttons()
    answers = page.follower._buttons(desk.look(None), None)[-len(tools) :]
    assert [answer["interactive"] for answer in answers] == [
        button is not page.input.tools.merge_ckpt for button in tools
    ]


def test_what_the_fields_of_another_model_hold_is_neither_saved_nor_trained(desk, mini):
    """Someone chose a model and clicks before its parameters have come."""
    page = Page(desk)
    page.blocks()
    before = mini.config_path.read_bytes()
    fields = [*page._of_settings(mini.load().settings), *page.input.concepts.updates(())]
    values = [update["value"] for update in fields]
    values[list(page.fields.declared).index("num_train_epochs")] = 7
    for refused in (
        page._save("other", "mini", *values),
        page._train("none", "other", "mini", *values),
        page._check("other", "mini", *values)[0],
        page._advise("person")("other", "mini", *values)[-1],
    ):
        assert "parameters of mini yet" in refused
    assert mini.config_path.read_bytes() == before and not desk.bench.busy
    assert "Saved the parameters of mini" in page._save("mini", "mini", *values)
    assert mini.load().settings.num_train_epochs == 7
