"""The Concepts tab: an accordion of fields per concept, and the import and export of concepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from dreambooth.settings import CONCEPT, Concept, concept_values
from dreambooth.settings.declare import by_group
from dreambooth.ui.components import button
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import control

# Concepts that have fields. Each delays a WebUI's start; a concepts list may hold more.
MAX_CONCEPTS = 6
INITIALLY_VISIBLE = 3
OPEN_GROUPS = ("Directories", "Filewords", "Training Prompts")


class ConceptsTab:
    """The fields of all concepts. Those of unused concepts are hidden until they are added."""

    def __init__(self) -> None:
        self.concepts = [Fields(CONCEPT, f"db_c{number}_") for number in range(1, MAX_CONCEPTS + 1)]
        self.accordions = [_add_concept(number, fields) for number, fields in enumerate(self.concepts, 1)]
        self.add = button("Add a concept", "db_add_concept")
        self.class_images = button("Generate class images", "db_class_images")
        with gr.Accordion("Concepts list", open=False, elem_id="db_concepts_list"):
            self.source = control(
                gr.Textbox,
                label="Concepts list",
                info="JSON, or the path of a concepts list (.json), of a configuration of another trainer (sd-scripts, "
                "kohya_ss, LoRA_Easy_Training_Scripts, lora-scripts, OneTrainer, ai-toolkit), or of a folder named "
                "like 10_sls 1girl or with such subfolders.",
                lines=3,
                max_lines=12,
                elem_id="db_concepts_path",
            )
            self.import_button = button("Import", "db_take_concepts")
            self.export_path = control(
                gr.Textbox,
                label="Export path",
                info="Path of a new dataset.toml for sd-scripts with these concepts.",
                max_lines=1,
                elem_id="db_concepts_written",
            )
            self.export_button = button("Export dataset.toml", "db_write_concepts")

    def elem_ids(self) -> list[str]:
        return [elem_id for fields in self.concepts for elem_id in fields.elem_ids()]

    def components(self) -> list[Any]:
        return [component for fields in self.concepts for component in fields.components()]

    def values(self, submitted: list[Any]) -> list[dict[str, Any]]:
        """The submitted values of :meth:`components`: one dict per concept."""
        n = len(CONCEPT)
        return [fields.values(submitted[i * n : (i + 1) * n]) for i, fields in enumerate(self.concepts)]

    def updates(self, concepts: Sequence[Concept]) -> list[Any]:
        """Updates of all fields: to ``concepts``, and to the defaults beyond them."""
        filled = [*concepts, *[Concept()] * MAX_CONCEPTS][:MAX_CONCEPTS]
        return [gr.update(value=value) for concept in filled for value in concept_values(concept).values()]


def _add_concept(number: int, fields: Fields) -> Any:
    visible = number <= INITIALLY_VISIBLE
    with gr.Accordion(f"Concept {number}", open=number == 1, visible=visible, elem_id=f"db_c{number}") as accordion:
        for group, settings in by_group(list(CONCEPT.values())):
            with gr.Accordion(group, open=group in OPEN_GROUPS):
                for setting in settings:
                    fields.add(setting.key)
    return accordion
