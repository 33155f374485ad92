"""The picture of an explanation: that its panels show the numbers, and what they say of themselves."""

import dataclasses

import numpy as np
import pytest

from celo._errors import CeloError
from celo._explain.explanation import Explanation
from celo._explain.figure import draw_explanation
from celo._explain.rule_map import RuleMap

AXIS = np.linspace(-3, 3, 7, dtype=np.float32)
Z, G = np.meshgrid(AXIS, AXIS, indexing="ij")
STEPS = 9


@pytest.fixture
def made():
    """An explanation of nine steps with three horizons and two tensors."""
    return Explanation(
        weights="mine.safetensors",
        step_sizes={horizon: np.linspace(2.0, 0.1, horizon) for horizon in (9, 1, 3)},
        losses={horizon: np.ones(horizon) for horizon in (9, 1, 3)},
        tensors=("layer/b", "layer/w"),
        relative_steps=np.geomspace(1e-4, 1e-2, 2 * STEPS).reshape(STEPS, 2),
        rule=RuleMap("layer/w", AXIS, AXIS, celo=-(2 * G + Z), adam=-G),
    )


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A function: explanation -> the figure whose picture was written."""
    figure = pytest.importorskip("matplotlib.figure", reason="figures need Matplotlib")
    figures, savefig = [], figure.Figure.savefig

    def watched(self, *arguments, **settings):
        figures.append(self)
        return savefig(self, *arguments, **settings)

    monkeypatch.setattr(figure.Figure, "savefig", watched)

    def draw(explanation):
        path = draw_explanation(explanation, tmp_path / "seen.png")
        assert path == tmp_path / "seen.png"
        [found] = figures
        assert path.read_bytes().startswith(b"\x89PNG")
        return found

    return draw


def texts(axes):
    """All that is written in and around a panel, but for its ticks."""
    return [axes.get_title(loc="left"), axes.get_xlabel(), *(text.get_text() for text in axes.texts)]


def test_the_schedule_is_a_line_for_each_horizon_over_the_share_of_training(made, drawn):
    axes = drawn(made).axes[0]
    assert len(axes.lines) == 3
    for line, horizon in zip(axes.lines, (1, 3, 9), strict=True):
        np.testing.assert_allclose(line.get_xdata(), np.arange(horizon) / horizon)
        np.testing.assert_allclose(line.get_ydata(), made.step_sizes[horizon])
    assert len({line.get_color() for line in axes.lines}) == 3
    assert {"1 steps", "3 steps", "9 steps"} < set(texts(axes))
    assert axes.get_ylim()[0] == 0


def test_each_tensor_is_a_row_under_its_name_and_each_step_a_column(made, drawn):
    axes = drawn(made).axes[1]
    [image] = axes.images
    shown = np.asarray(image.get_array())
    inner = (slice(None), slice(1, -1))  # the ends of the scale are at the quantiles
    np.testing.assert_allclose(shown[inner], made.relative_steps.T[inner])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["layer/b", "layer/w"]
    assert axes.get_ylim() == (1.5, -0.5)  # the first at the top
    assert axes.get_xlim() == (0, STEPS)


@pytest.mark.parametrize(
    ("panel", "name", "title"), [(2, "celo", "Celo's rule"), (3, "adam", "Adam, to compare")]
)
def test_a_map_shows_its_steps_on_a_scale_around_zero(made, drawn, panel, name, title):
    axes = drawn(made).axes[panel]
    steps = getattr(made.rule, name)
    mesh = axes.collections[0]
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(steps.shape), steps)
    assert mesh.get_clim() == (-np.abs(steps).max(), np.abs(steps).max())
    assert title in texts(axes)
    # The line along which there is no step: 2 g + z = 0, or g = 0.
    [g, z] = np.concatenate(axes.collections[1].get_paths()[0].to_polygons(closed_only=False)).T
    np.testing.assert_allclose(2 * g + z if name == "celo" else g, 0, atol=1e-6)


def test_the_words_name_the_weights_the_run_and_the_tensor(made, drawn):
    words = " ".join(text.get_text() for text in drawn(made).texts)
    for part in ("weights mine.safetensors do", "9 steps of training", "layer/w, the largest tensor"):
        assert part in words


def test_of_many_tensors_every_third_is_named_and_long_names_lose_their_beginning(made, drawn):
    names = tuple(f"encoder/block_{i}/attention/query/kernel" for i in range(60))
    many = dataclasses.replace(made, tensors=names, relative_steps=np.full((STEPS, 60), 1e-3))
    labels = [label.get_text() for label in drawn(many).axes[1].get_yticklabels()]
    assert len(labels) == 20
    assert all(len(label) == 36 and label[0] == "…" for label in labels)
    for label, name in zip(labels, names[::3], strict=True):
        assert name.endswith(label[1:])


def test_what_stands_still_or_is_not_a_number_is_drawn_all_the_same(made, drawn):
    still = dataclasses.replace(
        made,
        relative_steps=np.array([[0.0, np.nan]] * STEPS),
        rule=made.rule._replace(celo=np.zeros_like(made.rule.celo)),
    )
    assert len(drawn(still).axes) > 3


def test_a_run_of_one_step_has_one_line(made, drawn):
    one = dataclasses.replace(made, step_sizes={1: np.ones(1)}, relative_steps=np.ones((1, 2)))
    assert len(drawn(one).axes[0].lines) == 1


def test_a_folder_that_is_not_there_is_named(made, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need Matplotlib")
    with pytest.raises(CeloError, match=r"nowhere.* does not exist"):
        draw_explanation(made, tmp_path / "nowhere" / "seen.png")


def test_without_matplotlib_it_says_what_to_install(made, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CeloError, match=r"celo\[plots\]"):
        draw_explanation(made, tmp_path / "seen.png")
    assert not any(tmp_path.iterdir())
