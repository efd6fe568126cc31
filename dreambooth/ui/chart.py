"""Charts as small SVGs: loss and learning rate of a run, learning rates of a planned run. Colors: style.css."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from dreambooth.settings import Settings
from dreambooth.settings.components import TrainedRole
from dreambooth.ui.run_view import RunView

WIDTH, HEIGHT = 640, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 58, 12, 22

_UNEVEN = 1.2  # the highest share, as a multiple of the mean: drawn numbers differ by less
Points = Sequence[tuple[float, float]]
_RATE_KINDS: Mapping[TrainedRole, str] = {"denoiser": "rate", "text_encoder": "prior"}  # CSS classes of curves


def loss_chart(run: RunView) -> str:
    """Losses and learning rate by step; empty, but of the same size, before the second step."""
    if len(run.loss.points) < 2:
        return f'<svg class="db_chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="No steps yet"></svg>'
    last = run.step["step"]
    losses = (run.loss.smoothed(), run.prior.smoothed(), run.validation, run.class_drift)
    top = _ceiling([y for points in losses for _, y in points])
    top_rate = max((y for _, y in run.rate.points), default=0.0)
    parts = [
        _frame(top, last, top_rate),
        _line(run.loss.points, last, top, "loss_raw"),
        _line(run.loss.smoothed(), last, top, "loss", "loss"),
        _line(run.prior.smoothed(), last, top, "prior", "class loss"),
        _dots(run.validation, last, top, "loss", "validation"),
        _dots(run.class_drift, last, top, "prior", "class drift"),
        _line(run.rate.points, last, top_rate, "rate", "learning rate"),
    ]
    # The page's script reads the values under the pointer back from the curves that have a name.
    axes = f'data-last="{last}" data-plot="{LEFT} {WIDTH - RIGHT} {TOP} {HEIGHT - BOTTOM}"'
    svg = f'<svg class="db_chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" {axes}>{"".join(parts)}</svg>'
    return svg + _legend(run)


def learning_rate_chart(rates: Mapping[TrainedRole, Points], titles: Mapping[TrainedRole, str]) -> str:
    """Learning rates of a run that has not started, by trained role. ``titles``: of the roles, for the legend."""
    last = max(points[-1][0] for points in rates.values())
    top_rate = max(y for points in rates.values() for _, y in points)
    parts = [_axis(), *_rate_labels(top_rate), *_step_labels(last)]
    parts += [_line(points, last, top_rate, _RATE_KINDS[role]) for role, points in rates.items()]
    legend = "".join(
        f'<span class="db_key db_key_{_RATE_KINDS[role]}">{html.escape(titles[role])} up to '
        f"{max(y for _, y in points):.3g}</span>"
        for role, points in rates.items()
    )
    title = "Planned learning rates"
    svg = f'<svg class="db_chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
    return f'{svg}<p class="db_legend">{title}: {legend}</p>'


def timestep_chart(shares: Sequence[float], settings: Settings) -> str:
    """Timesteps that a run will train: their ``shares`` in equal parts of the process. Empty where all are the same."""
    if max(shares) * len(shares) < _UNEVEN:
        return ""
    width, height = (WIDTH - LEFT - RIGHT) / len(shares), HEIGHT - TOP - BOTTOM
    bars = "".join(
        f'<rect class="db_share" x="{LEFT + i * width:.1f}" y="{HEIGHT - BOTTOM - share / max(shares) * height:.1f}" '
        f'width="{max(1.0, width - 1):.1f}" height="{share / max(shares) * height:.1f}"/>'
        for i, share in enumerate(shares)
    )
    y, right = HEIGHT - 6, WIDTH - RIGHT
    labels = f'<text x="{LEFT}" y="{y}">image</text><text x="{right}" y="{y}" text-anchor="end">noise</text>'
    title = "Planned timesteps"
    svg = (
        f'<svg class="db_chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{_axis()}{bars}{labels}'
        "</svg>"
    )
    shift = " and by resolution" if settings.resolution_shift else ""
    shown = f"{settings.timestep_sampling}, shifted by {settings.timestep_shift:g}{shift}"
    return f'{svg}<p class="db_legend">{title}: {html.escape(shown)}</p>'


def _ceiling(values: Sequence[float]) -> float:
    """Top of the axis: 25% above the highest smoothed value. Single raw peaks are clipped."""
    return 1.25 * max(values, default=0.0) or 1.0


def _frame(top: float, last: float, top_rate: float) -> str:
    bottom = HEIGHT - BOTTOM
    lines = [_axis()]
    for part in (0.0, 0.5, 1.0):
        y = bottom - part * (bottom - TOP)
        lines.append(f'<text x="{LEFT - 5}" y="{y + 4:.0f}" text-anchor="end">{part * top:.3g}</text>')
    return "".join([*lines, *_rate_labels(top_rate), *_step_labels(last)])


def _axis() -> str:
    return f'<path class="db_axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}V{TOP}"/>'


def _rate_labels(top_rate: float) -> list[str]:
    labels = ((TOP, top_rate), (HEIGHT - BOTTOM, 0.0))
    return [f'<text x="{WIDTH - RIGHT + 5}" y="{y + 4:.0f}">{v:.2g}</text>' for y, v in labels]


def _step_labels(last: float) -> list[str]:
    y, right = HEIGHT - 6, WIDTH - RIGHT
    return [f'<text x="{LEFT}" y="{y}">0</text>', f'<text x="{right}" y="{y}" text-anchor="end">step {last:g}</text>']


def _line(points: Points, last: float, top: float, kind: str, name: str = "") -> str:
    """A curve. The pointer shows its values if it has a ``name``."""
    positions = " ".join(f"{x:.1f},{y:.2f}" for x, y in _positions(points, last, top))
    named = f' data-name="{name}" data-top="{top}"' if name else ""
    return f'<polyline class="db_curve db_curve_{kind}" points="{positions}"{named}/>' if positions else ""


def _dots(points: Points, last: float, top: float, kind: str, name: str) -> str:
    """Single measurements, such as validation losses."""
    circles = "".join(
        f'<circle class="db_dot db_dot_{kind}" cx="{x:.1f}" cy="{y:.2f}" r="2.5"/>'
        for x, y in _positions(points, last, top)
    )
    return f'<g data-name="{name}" data-top="{top}">{circles}</g>' if circles else ""


def _positions(points: Points, last: float, top: float) -> list[tuple[float, float]]:
    """The points in coordinates of the SVG; ``last`` and ``top`` are the ends of the axes."""
    if not points or not top or not last:
        return []
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return [(LEFT + x / last * width, HEIGHT - BOTTOM - min(1.0, max(0.0, y / top)) * height) for x, y in points]


def _legend(run: RunView) -> str:
    step = run.step
    entries = [("loss", "loss", run.loss.smoothed()), ("prior", "class loss", run.prior.smoothed()),
               ("dot_loss", "validation", run.validation), ("dot_prior", "class drift", run.class_drift)]  # fmt: skip
    parts = [f'<span class="db_key db_key_{kind}">{name} {points[-1][1]:.4f}</span>' for kind, name, points in entries
             if points]  # fmt: skip
    parts.append(f'<span class="db_key db_key_rate">learning rate {step.get("lr", 0.0):.3g}</span>')
    return f'<p class="db_legend">{"".join(parts)}</p>'
