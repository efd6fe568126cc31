"""The Concepts tab: a row of fields per concept, drawn from the concept's declaration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from dreambooth.settings import CONCEPT, Concept, concept_values
from dreambooth.settings.declare import by_group
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control

DRAWN = 6  # with fields of their own, of which each costs a WebUI time; a concepts list may hold more
LISTED = 3  # shown at first


class ConceptsTab:
    """The fields of all concepts. Those beyond the ones in use are hidden until they are asked for."""

    def __init__(self) -> None:
        self.concepts = [Fields(CONCEPT, f"db_c{number}_") for number in range(1, DRAWN + 1)]
        self.tabs = [self._draw(number, fields) for number, fields in enumerate(self.concepts, 1)]
        self.add = control(gr.Button, "Add a concept", size="sm", elem_id="db_add_concept")
        self.draw_classes = control(gr.Button, "Generate class images", size="sm", elem_id="db_class_images")
        with gr.Accordion("Concepts list", open=False, elem_id="db_concepts_list"):
            self.listed = control(
                gr.Textbox,
                label="Concepts list",
                info="JSON, or the path of what holds your pictures: a concepts list (.json), a dataset.toml or a "
                "training's .toml of kohya's scripts, a folder such as 10_sls 1girl or one that holds some.",
                lines=3,
                max_lines=12,
                elem_id="db_concepts_path",
            )
            self.take = control(gr.Button, "Take over", size="sm", elem_id="db_take_concepts")
            self.written = control(
                gr.Textbox,
                label="dataset.toml to write",
                info="The path of a new file, with these concepts for kohya's scripts.",
                max_lines=1,
                elem_id="db_concepts_written",
            )
            self.write = control(gr.Button, "Write dataset.toml", size="sm", elem_id="db_write_concepts")

    @staticmethod
    def _draw(number: int, fields: Fields) -> Any:
        shown = number <= LISTED
        with gr.Accordion(f"Concept {number}", open=number == 1, visible=shown, elem_id=f"db_c{number}") as tab:
            for group, settings in by_group(list(CONCEPT.values())):
                with gr.Accordion(group, open=group in ("Directories", "Filewords", "Training Prompts")):
                    for setting in settings:
                        fields.draw(setting.key)
        return tab

    def elem_ids(self) -> list[str]:
        return [elem_id for fields in self.concepts for elem_id in fields.elem_ids()]

    def components(self) -> list[Any]:
        return [component for fields in self.concepts for component in fields.components()]

    def values(self, given: list[Any]) -> list[dict[str, Any]]:
        """What the page sent for :meth:`components`: one dict per concept."""
        n = len(CONCEPT)
        return [fields.values(given[i * n : (i + 1) * n]) for i, fields in enumerate(self.concepts)]

    def updates(self, concepts: Sequence[Concept]) -> list[Any]:
        """The fields' new values: those of ``concepts``, then defaults."""
        filled = [*concepts, *[Concept()] * DRAWN][:DRAWN]
        return [gr.update(value=value) for concept in filled for value in concept_values(concept).values()]


def pages(shown: int) -> list[Any]:
    """One concept more: the new count, and which of them are visible."""
    count = min(DRAWN, shown + 1)
    return [count, *(gr.update(visible=number < count) for number in range(DRAWN))]
