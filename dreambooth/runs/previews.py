"""Previews during training: samples of each concept's prompt and of the sanity prompt."""

from __future__ import annotations

import logging

from dreambooth.captions.prompts import FILEWORDS, fill_filewords, has_filewords
from dreambooth.errors import Cancelled
from dreambooth.jobs.events import PreviewSaved
from dreambooth.memory.out_of_memory import OUT_OF_MEMORY, is_out_of_memory
from dreambooth.memory.release import free_memory, release_after
from dreambooth.runs.preview_model import modules_for_previews
from dreambooth.sampling.generate import NO_EMBEDDINGS, SampleRequest, for_model, generate_images
from dreambooth.sampling.saving import save_sample
from dreambooth.settings import Concept
from dreambooth.training.precision import compute_dtype, memory_peak, reset_memory_peak
from dreambooth.training.results import Results, unused_path
from dreambooth.training.session import Session

log = logging.getLogger("dreambooth.previews")


class Previews:
    """Generates previews into the model's samples folder. A failed preview is reported and never ends the run."""

    def __init__(self, session: Session, results: Results) -> None:
        self.session, self.results = session, results
        self.settings, self.events = session.settings, session.events

    def generate(self) -> None:
        requests = self.requests()
        if not requests:
            return
        reset_memory_peak(self.session.device)
        try:
            self.events.phase("preview")
            self._generate(requests)
        except Cancelled:
            self.events.message("Cancelled during the preview.")
        except Exception as error:
            log.exception("preview failed")
            reason = error
            if is_out_of_memory(error):
                release_after(error)
                reason = f"{OUT_OF_MEMORY}. Lower resolution, or generate no previews (n_save_sample = 0)."
            self.events.message(f"The preview failed; training continues: {reason}", level="error")
        finally:
            free_memory()  # buffers of decoding, which steps have no use for
            self.events.phase("training")
            if peak := memory_peak(self.session.device):
                peaks = self.session.memory_peaks
                peaks["preview"] = max(peaks.get("preview", 0), peak)
            reset_memory_peak(self.session.device)

    def _generate(self, requests: list[SampleRequest]) -> None:
        revision, sampler = self.results.revision, self.settings.scheduler
        with modules_for_previews(self.session, requests) as modules:
            requests = [for_model(request, modules.family, modules.scheduler_config) for request in requests]
            check = self.session.controls.check
            imagic = self.session.imagic
            images = generate_images(
                modules, requests, sampler=sampler, prompt_encoding=modules.family.prompt_encoding(self.settings),
                prompt_embeddings=imagic.prompt_embeddings(self.settings) if imagic else NO_EMBEDDINGS,
                dtype=compute_dtype(self.session.precision), check=check,
            )  # fmt: skip
            for number, (request, image) in enumerate(zip(requests, images, strict=True)):
                path = unused_path(self.session.model.samples / f"sample_{revision}-{number}.png")
                save_sample(path, image, request, sampler)
                self.events.send(PreviewSaved(str(path), request.prompt, request.seed, self.session.position.step))

    def requests(self) -> list[SampleRequest]:
        """The previews of this run: the same prompts and seeds each time, so that they can be compared."""
        concepts = enumerate(self.session.config.concepts)
        requests = [request for number, concept in concepts for request in self._of_concept(number, concept)]
        if self.settings.sanity_prompt:
            side = self._side(self.settings.resolution)
            requests.append(
                SampleRequest(
                    self.settings.sanity_prompt,
                    seed=_seed_or(self.settings.sanity_seed, self.settings.seed),
                    width=side,
                    height=side,
                )
            )
        return requests

    def _of_concept(self, number: int, concept: Concept) -> list[SampleRequest]:
        seed = _seed_or(concept.sample_seed, self.settings.seed)
        examples = [e for e in self.session.plan.examples if e.concept == number]
        requests = []
        for i in range(concept.n_save_sample if examples else 0):  # regularization images have no previews
            example = examples[i % len(examples)]
            prompt = concept.save_sample_prompt or FILEWORDS
            from_caption = has_filewords(prompt)
            side = self._side(self.settings.resolution)
            width, height = example.bucket if from_caption else (side, side)
            requests.append(
                SampleRequest(
                    example.caption if prompt.strip().lower() == FILEWORDS else fill_filewords(prompt, example.caption),
                    concept.save_sample_negative_prompt,
                    seed + i,
                    concept.save_infer_steps,
                    concept.save_guidance_scale,
                    self._side(width),
                    self._side(height),
                )
            )
        return requests

    def _side(self, pixels: int) -> int:
        multiple = self.session.codec.pixel_multiple
        return pixels // multiple * multiple


def _seed_or(seed: int, default: int) -> int:
    return default if seed < 0 else seed
