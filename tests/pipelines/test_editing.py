"""Traversals, interpolations, edits, and images of factors that are asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.data import Interval, label_to_z
from idiff_hf.pipelines.editing import slerp
from tests.pipelines.pipes import make, one, seeds

NAMES = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def pipe() -> IVAEDiffusionPipeline:
    return one("additive")


@pytest.fixture(scope="module")
def categorical() -> IVAEDiffusionPipeline:
    return one("categorical")


@pytest.fixture(scope="module")
def learned() -> IVAEDiffusionPipeline:
    return make(prior_type="learned")


# traverse


def test_traverse_moves_one_latent_at_a_time_from_the_same_noise(pipe: IVAEDiffusionPipeline) -> None:
    z = torch.zeros(1, 6)
    images = pipe.traverse(z, dims=[0, 3], values=(-1.0, 0.0, 1.0), num_inference_steps=2, output_type="pt")
    assert images.shape == (2, 3, 3, 16, 16)
    torch.testing.assert_close(images[0, 1], images[1, 1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(images[0, 0], images[1, 0])
    moved = z.clone()
    moved[0, 3] = 1.0
    decoded = pipe.traverse(z, dims=["scale"], values=(1.0,), decoder="ivae", output_type="pt")
    torch.testing.assert_close(decoded[0, 0], pipe.decode(moved, "pt")[0])
    rows = pipe.traverse(z, num_inference_steps=1)
    assert [len(row) for row in rows] == [7] * 6 and rows[0][0].size == (16, 16)
    assert pipe.traversed == (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)


def test_traverse_moves_a_distance_from_0() -> None:
    pipe = one("distances")
    z = torch.ones(1, 6)
    assert pipe.traversed == (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    images = pipe.traverse(z, dims=[2], decoder="ivae", output_type="pt")
    torch.testing.assert_close(images[0, 4], pipe.decode(z, "pt")[0])
    moved = z.clone()
    moved[0, 2] = 0.0
    torch.testing.assert_close(images[0, 0], pipe.decode(moved, "pt")[0])


def test_traverse_goes_through_the_classes_of_a_categorical_latent(
    categorical: IVAEDiffusionPipeline,
) -> None:
    z = categorical.encode(IMAGES[:1])
    images = categorical.traverse(z, decoder="ivae", output_type="pt")
    assert images.shape == (6, 5, 3, 16, 16)
    codes = categorical.codes(z)[0].int().tolist()
    own = categorical.decode(z, "pt")[0]
    for latent, code in enumerate(codes):
        torch.testing.assert_close(images[latent, code], own)
        assert all(not torch.allclose(images[latent, other], own) for other in range(5) if other != code)
    assert categorical.traverse(z, dims=[2], values=(4, 1), num_inference_steps=1, output_type="np").shape[
        :2
    ] == (1, 2)


# interpolate


def test_interpolate_goes_from_one_to_the_other_from_the_same_noise(pipe: IVAEDiffusionPipeline) -> None:
    a, b = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(0))
    for mode in ("linear", "spherical"):
        images = pipe.interpolate(a, b, 3, mode, num_inference_steps=2, seed=5, output_type="pt")  # type: ignore[arg-type]
        for z, image in ((a, images[0]), (b, images[2])):
            alone = pipe(
                latents=z, num_inference_steps=2, generator=seeds(1, first=5), output_type="pt"
            ).images[0]
            torch.testing.assert_close(image, alone, atol=1e-5, rtol=1e-5)
    decoded = pipe.interpolate(a, b, 3, decoder="ivae", output_type="pt")
    torch.testing.assert_close(decoded[1], pipe.decode((a + b) / 2, "pt")[0])
    of_images = pipe.interpolate(IMAGES[:1], IMAGES[1:], 2, decoder="ivae", output_type="pt")
    torch.testing.assert_close(of_images, pipe.decode(pipe.encode(IMAGES), "pt"))
    assert len(pipe.interpolate(a, b, num_inference_steps=1)) == 8


def test_slerp_keeps_to_the_circle() -> None:
    """By hand: from (1, 0) to (0, 1) by thirds of a right angle; of other lengths, between them."""
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    share = torch.linspace(0, 1, 4)[:, None]
    angles = torch.tensor([0.0, 30.0, 60.0, 90.0]).deg2rad()
    torch.testing.assert_close(slerp(a, b, share), torch.stack([angles.cos(), angles.sin()], dim=1))
    assert slerp(2 * a, b, torch.tensor([[0.5]])).norm() == pytest.approx(math.sqrt(2.5))
    for other in (a, -a, 0 * a, 3 * a):
        torch.testing.assert_close(slerp(a, other, share), torch.lerp(a, other, share))


# edit


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("scale_shift", "tokens", "categorical", "kl")]


@pytest.mark.parametrize("kind", ["additive", *SLOW])
def test_edit_of_nothing_returns_the_image(kind: str) -> None:
    """To half a grey level (RMS), and half the step gives a quarter of the error or less. These U-Nets are untrained, which is harder.

    In latent diffusion what returns is the image as the autoencoder has it.
    """
    pipeline = one(kind)
    with torch.no_grad():
        expected = pipeline._to_images(pipeline.diffused(IMAGES)).clamp(-1.0, 1.0)
    errors = []
    for steps in (16, 32):
        output = pipeline.edit(IMAGES, {}, num_inference_steps=steps, output_type="pt")
        assert torch.equal(output.latents, pipeline.encode(IMAGES))
        errors.append(float((output.images * 2 - 1 - expected).square().mean().sqrt()))
    assert errors[1] < 1 / 255 and errors[1] < errors[0] / 4


def test_edit_sets_what_is_asked_for_and_changes_the_image(pipe: IVAEDiffusionPipeline) -> None:
    z = pipe.encode(IMAGES)
    by_number = pipe.edit(IMAGES, {2: 1.5}, num_inference_steps=4, output_type="pt")
    z[:, 2] = 1.5
    assert torch.equal(by_number.latents, z)
    images, latents = pipe.edit(IMAGES, {2: 1.5}, num_inference_steps=4, output_type="pt", return_dict=False)
    assert torch.equal(images, by_number.images) and torch.equal(latents, z)
    unchanged = pipe.edit(IMAGES, {}, num_inference_steps=4, output_type="pt").images
    assert not torch.allclose(images, unchanged)
    assert not torch.allclose(
        pipe.edit(IMAGES, {2: 1.5}, guidance_scale=3.0, num_inference_steps=4, output_type="pt").images,
        images,
    )


def test_edit_of_one_image_does_not_depend_on_the_others(pipe: IVAEDiffusionPipeline) -> None:
    both = pipe.edit(IMAGES, {0: 1.0}, num_inference_steps=4, output_type="pt").images
    alone = pipe.edit(IMAGES[1:], {0: 1.0}, num_inference_steps=4, output_type="pt").images
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0.0)


def test_a_factor_is_set_to_the_mean_of_its_prior(
    pipe: IVAEDiffusionPipeline, categorical: IVAEDiffusionPipeline
) -> None:
    """The tiny prior is released and has not learned: its mean of a factor's value v is sqrt(12) v."""
    edited = pipe.edit(IMAGES, {"object_hue": 0.25}, num_inference_steps=1).latents
    torch.testing.assert_close(edited[:, 2], torch.full((2,), math.sqrt(12) * 0.25))
    others = [0, 1, 3, 4, 5]
    assert torch.equal(edited[:, others], pipe.encode(IMAGES)[:, others])
    one_hot = categorical.edit(IMAGES, {0: 3, "shape": -0.5}, num_inference_steps=1).latents
    assert torch.equal(one_hot.view(2, 6, 5).sum(dim=2), torch.ones(2, 6))
    assert categorical.codes(one_hot)[:, 0].tolist() == [3.0, 3.0]


def test_edit_resizes_when_asked(pipe: IVAEDiffusionPipeline) -> None:
    large = torch.zeros(1, 3, 40, 32)
    assert pipe.edit(large, {}, num_inference_steps=1, resize=True, output_type="pt").images.shape == (
        1,
        3,
        16,
        16,
    )
    with pytest.raises(ValueError, match="resize them, or pass resize=True"):
        pipe.edit(large, {})


# sample_factors


def test_u_of_factors_is_that_of_an_interval_of_the_width(pipe: IVAEDiffusionPipeline) -> None:
    """As training would state it: an interval of length 1/2 from a cut in the middle, with the value at its centre."""
    z = torch.full((1, 6), 0.25)
    u = Interval(6).sample(z, torch.full((1, 6), 0.5))
    torch.testing.assert_close(pipe._aux_of(z, width=0.5), u)
    named = pipe._aux_of({"shape": [0.25, -0.5]}, width=0.5)
    free = torch.cat([torch.zeros(6), torch.ones(6)])
    assert named.shape == (2, 12)
    expected = free.repeat(2, 1)
    expected[:, 4], expected[:, 10] = math.sqrt(12) * torch.tensor([0.25, -0.5]), 0.25
    torch.testing.assert_close(named, expected)
    assert torch.equal(pipe._aux_of({}), free[None])


def test_labels_of_factors(pipe: IVAEDiffusionPipeline) -> None:
    sizes = (10, 10, 10, 8, 4, 15)
    labels = torch.tensor([[0, 9, 4, 7, 2, 14], [1, 2, 3, 4, 3, 6]])
    values = label_to_z(labels, sizes, "endpoints")
    torch.testing.assert_close(pipe._aux_of(labels, sizes), pipe._aux_of(values))
    torch.testing.assert_close(pipe._aux_of({"shape": 3}, sizes), pipe._aux_of({"shape": 0.5}))


def test_labels_have_the_values_of_the_models_training(pipe: IVAEDiffusionPipeline) -> None:
    """By hand: the first of four classes is an end of the range, or the centre of its first quarter."""
    sizes, told = (10, 10, 10, 8, 4, 15), {"num_inference_steps": 1, "output_type": "pt"}
    assert torch.equal(pipe._aux_of({"shape": 0}, sizes, 0.05, "endpoints"), pipe._aux_of({"shape": -0.5}))
    assert torch.equal(pipe._aux_of({"shape": 0}, sizes, 0.05, "centers"), pipe._aux_of({"shape": -0.375}))
    ends, middle, asked = (
        pipe.sample_factors(factors, generator=seeds(1), **told, **call).latents
        for factors, call in (
            ({"shape": 0}, {"factor_sizes": sizes}),
            ({"shape": 0}, {"factor_sizes": sizes, "label_to_z": "centers"}),
            ({"shape": -0.375}, {}),
        )
    )
    assert torch.equal(middle, asked) and not torch.equal(middle, ends)


def test_sample_factors_refuses_an_aux_beside_the_factors(pipe: IVAEDiffusionPipeline) -> None:
    with pytest.raises(
        ValueError, match=r"^sample_factors makes aux from factors: leave aux out, or draw with"
    ):
        pipe.sample_factors({"shape": 0.1}, aux=torch.zeros(1, 12))


def test_sample_factors_draws_z_about_what_was_asked(pipe: IVAEDiffusionPipeline) -> None:
    """A known prior has the standard deviation of u, or its least, 0.02 sqrt(12); what is free has that of the whole range."""
    output = pipe.sample_factors(
        {"floor_hue": 0.3},
        width=0.0,
        num_images_per_input=64,
        num_inference_steps=1,
        generator=seeds(64),
        output_type="pt",
    )
    z = output.latents
    assert output.images.shape == (64, 3, 16, 16)
    assert float(z[:, 0].mean()) == pytest.approx(math.sqrt(12) * 0.3, abs=0.04)
    assert float(z[:, 0].std()) == pytest.approx(0.02 * math.sqrt(12), rel=0.3)
    assert float(z[:, 1].std()) == pytest.approx(1.0, rel=0.3)
    many = pipe.sample_factors(torch.zeros(2, 6), num_inference_steps=1, generator=seeds(2))
    assert len(many.images) == 2


def test_a_learned_prior_samples_factors_too(learned: IVAEDiffusionPipeline) -> None:
    assert len(learned.sample_factors({"shape": 0.5}, num_inference_steps=1).images) == 1


# refusals


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("traverse", (torch.zeros(2, 6),), r"latents must be one row \(1, 6\), got \(2, 6\)"),
        ("traverse", (torch.zeros(1, 6), [6]), "latents are numbered from 0 to 5, got 6"),
        ("traverse", (torch.zeros(1, 6), [-1]), "latents are numbered from 0 to 5, got -1"),
        ("traverse", (torch.zeros(1, 6), None, None, "gan"), "decoder must be ivae or ddpm, got 'gan'"),
        ("interpolate", (torch.zeros(1, 6), torch.zeros(2, 6)), r"b must be one row \(1, 6\), got \(2, 6\)"),
        (
            "interpolate",
            (torch.zeros(1, 5), torch.zeros(1, 6)),
            r"latents must be a tensor \(B, 6\), got \(1, 5\)",
        ),
        ("interpolate", (torch.zeros(1, 6), torch.zeros(1, 6), 1), "steps must be 2 or more, got 1"),
        (
            "interpolate",
            (torch.zeros(1, 6), torch.zeros(1, 6), 2, "cubic"),
            "mode must be linear or spherical, got 'cubic'",
        ),
        ("edit", (IMAGES, {7: 1.0}), "latents are numbered from 0 to 5, got 7"),
        ("traverse", (torch.zeros(1, 6), []), "dims and values must name one or more, got none"),
        ("traverse", (torch.zeros(1, 6), None, ()), "dims and values must name one or more, got none"),
        (
            "edit",
            (IMAGES, {"shape": [0.1, 0.4]}),
            r"set to one finite number for all images, got \[0.1, 0.4\]",
        ),
        ("edit", (IMAGES, {0: torch.zeros(2)}), "set to one finite number for all images, got tensor"),
        ("edit", (IMAGES, {0: float("inf")}), "set to one finite number for all images, got inf"),
        ("edit", (IMAGES, {"hue": 0.1}), "factors are floor_hue, wall_hue, .*, got 'hue'"),
        ("edit", (IMAGES, {"shape": 2.0}), r"factors must lie in \[-0.5, 0.5\], or be labels .*got 2.0"),
        ("edit", (IMAGES, {}, -1.0), "guidance_scale must be 0 or more, got -1"),
        ("edit", (IMAGES, {}, 1.0, 0), "num_inference_steps must be 1 or more, got 0"),
        ("edit", (IMAGES, {}, 1.0, 5, 1.0), "start must lie between 0 and 1, got 1.0"),
        ("sample_factors", ({"hue": 0.1},), "factors must be among floor_hue, .*, got hue"),
        ("sample_factors", (torch.zeros(2, 5),), r"factors must be \(B, 6\), got \(2, 5\)"),
        (
            "sample_factors",
            ({"shape": [0.1, 0.2], "scale": [0.1, 0.2, 0.3]},),
            r"factors must have one length, .* got lengths \[2, 3\]",
        ),
        (
            "sample_factors",
            ({"shape": 1.0},),
            r"factors must lie in \[-0.5, 0.5\], or be labels with factor_sizes given, got 1.0",
        ),
        ("sample_factors", ({"shape": float("nan")},), r"factors must lie in \[-0.5, 0.5\]"),
        ("sample_factors", (torch.zeros(1, 6), (10,)), "factor_sizes must be 6 numbers, one a factor, got 1"),
        ("sample_factors", ({"shape": []},), "factors must be of one image or more, got none"),
        (
            "sample_factors",
            ({"wall_hue": 3.7}, (10, 10, 10, 8, 4, 15)),
            r"labels of wall_hue must be whole numbers from 0 to 9, got 3\.7",
        ),
        (
            "sample_factors",
            ({"shape": [0, 4]}, (10, 10, 10, 8, 4, 15)),
            r"labels of shape must be whole numbers from 0 to 3, got \[0, 4\]",
        ),
        ("sample_factors", ({"shape": 0.1}, None, 2.0), r"width must lie in \[0, 1\], got 2.0"),
        *(
            (
                "traverse",
                (torch.zeros(1, 6), dims),
                rf"said by its number or the name of its factor, got {seen}$",
            )
            for dims, seen in (
                (True, "True"),
                ([True, False], "True"),
                (np.array([False, True]), r"np\.False_"),
                (torch.tensor([True, False]), r"tensor\(True\)"),
                (torch.tensor(True), r"tensor\(True\)"),
                ([1.0], r"1\.0"),
                ([None], "None"),
                ([torch.tensor([1])], r"tensor\(\[1\]\)"),
            )
        ),
        ("traverse", (torch.zeros(1, 6), [0], ["1"]), "set to one finite number for all images, got '1'"),
        ("traverse", (torch.zeros(1, 6), [0], [True]), "set to one finite number for all images, got True"),
        (
            "traverse",
            (torch.zeros(1, 6), [0], [1e39]),
            r"set to one finite number for all images, got 1e\+39",
        ),
        (
            "traverse",
            (torch.zeros(1, 6), [0], [0.0], "ivae", 1.0, 2, 1.5),
            r"^seed must be a whole number from -2\^63 to 2\^64 - 1, got 1\.5$",
        ),
        (
            "traverse",
            (torch.zeros(1, 6), [0], [0.0], "ddpm", 1.0, 2, 2**70),
            r"^seed must be a whole number from",
        ),
        (
            "interpolate",
            (torch.zeros(1, 6), torch.zeros(1, 6), 2.5),
            r"^steps must be a whole number, got 2\.5$",
        ),
        (
            "interpolate",
            (torch.zeros(1, 6), torch.zeros(1, 6), "3"),
            r"^steps must be a whole number, got '3'$",
        ),
        ("edit", (IMAGES, [1.0]), r"^values must be a mapping such as \{0: 1\.0\}, got \[1\.0\]$"),
        ("edit", (IMAGES, {True: 1.0}), "said by its number or the name of its factor, got True"),
        (
            "edit",
            (IMAGES, {"floor_hue": 0.2, 0: 1.0}),
            "^'floor_hue' and 0 are both latent 0: set it by one of them$",
        ),
        ("edit", (IMAGES, {0: 1.0}, 1.0, 2, "x"), "start must lie between 0 and 1, got 'x'"),
        *(
            ("sample_factors", ({"shape": value},), rf"^factors must be numbers, .* got {seen}$")
            for value, seen in (
                ("a", "'a'"),
                (None, "None"),
                (False, "False"),
                (0.1 + 0j, r"\(0\.1\+0j\)"),
                ([[0.1], [0.1, 0.2]], r"\[\[0\.1\], \[0\.1, 0\.2\]\]"),
            )
        ),
        (
            "sample_factors",
            ({"shape": torch.zeros(3, 1)},),
            r"^factors by name must be a number or a list each, got an array \(3, 1\) of shape$",
        ),
        ("sample_factors", ([0.0] * 6,), r"^factors must be \(B, 6\), got \(6,\)$"),
        ("sample_factors", (None,), "^factors must be numbers, .* got None$"),
        ("sample_factors", (torch.full((1, 6), 0.7),), r"got 0\.7$"),
        ("sample_factors", ({"shape": 0.7},), r"got 0\.7$"),
        ("sample_factors", ({"shape": 0.1}, None, "a"), r"width must lie in \[0, 1\], got 'a'$"),
        ("sample_factors", ({"shape": 0}, 8), r"^factor_sizes must be 6 numbers, one a factor, got 1$"),
        (
            "sample_factors",
            ({"shape": 0}, (10, 10, 10, 8.0, 4, 15)),
            r"^factor_sizes must be whole numbers of 1 or more, got \(10, 10, 10, 8\.0, 4, 15\)$",
        ),
        (
            "sample_factors",
            ({"shape": 0}, (10, 10, 10, 8, 4, 15), 0.05, "centres"),
            "^label_to_z must be endpoints or centers, got 'centres'$",
        ),
    ],
)
def test_refusals(pipe: IVAEDiffusionPipeline, method: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        getattr(pipe, method)(*arguments)
    assert "\n" not in str(caught.value)


def test_arrays_and_single_latents_are_taken_as_they_come(pipe: IVAEDiffusionPipeline) -> None:
    told = {"num_inference_steps": 2, "output_type": "pt"}
    factors = torch.full((2, 6), 0.25)

    def drawn(given: Any) -> torch.Tensor:
        return pipe.sample_factors(given, generator=torch.Generator().manual_seed(0), **told).images

    assert torch.equal(drawn(factors.numpy()), drawn(factors))
    assert torch.equal(drawn(factors.tolist()), drawn(factors))
    z = pipe.encode(IMAGES[:1])
    alone, listed = (
        pipe.traverse(z, dims, decoder="ivae", output_type="pt") for dims in ("shape", ["shape"])
    )
    assert torch.equal(alone, listed)
    for one_latent in (4, np.int64(4), torch.tensor(4), torch.tensor([4]), np.array(4), (n for n in (4,))):
        taken = pipe.traverse(z, one_latent, decoder="ivae", output_type="pt")  # type: ignore[arg-type]
        assert torch.equal(taken, listed)
    single, several = (
        pipe.traverse(z, 4, values, decoder="ivae", output_type="pt") for values in (1.0, [1.0])
    )
    assert torch.equal(single, several)
    assert torch.equal(pipe.edit(IMAGES, {np.int64(0): 0.5}, **told).latents[:, 0], torch.full((2,), 0.5))
    assert torch.equal(pipe.edit(IMAGES, {0: torch.tensor(0.5)}, **told).latents[:, 0], torch.full((2,), 0.5))


def test_what_a_type_of_model_cannot_do_is_refused(
    categorical: IVAEDiffusionPipeline, learned: IVAEDiffusionPipeline
) -> None:
    z = categorical.encode(IMAGES[:1])
    with pytest.raises(
        ValueError, match="interpolate needs Gaussian latents: between two classes there is nothing"
    ):
        categorical.interpolate(z, z)
    with pytest.raises(ValueError, match="classes are numbered from 0 to 4, got 5"):
        categorical.traverse(z, dims=[0], values=(5,), decoder="ivae")
    with pytest.raises(ValueError, match=r"classes are numbered from 0 to 4, got 1.5"):
        categorical.edit(IMAGES, {0: 1.5})
    with pytest.raises(
        ValueError, match="'shape' names no latent: with prior_type='learned' none belongs to a factor"
    ):
        learned.edit(IMAGES, {"shape": 0.1})
    unconditional = one("unconditional")
    for call in (
        lambda: unconditional.traverse(z),
        lambda: unconditional.interpolate(z, z),
        lambda: unconditional.edit(IMAGES, {}),
        lambda: unconditional.sample_factors({}),
        lambda: unconditional.encode(IMAGES),
    ):
        with pytest.raises(ValueError, match="this model has no iVAE: it draws images"):
            call()


def test_a_u_without_means_cannot_be_asked_for_factors(pipe: IVAEDiffusionPipeline) -> None:
    from idiff_hf import IVAEModel

    torch.manual_seed(0)
    ivae = IVAEModel(
        image_size=16,
        channels=(8, 8, 8, 8),
        hidden_dim=8,
        latent_dim=6,
        aux_moments="variance",
        factor_names=NAMES,
    )
    other = IVAEDiffusionPipeline(**{**pipe.components, "ivae": ivae.eval()})
    message = r"factors cannot be asked for: this model's u states no means of them \(aux_moments='variance'\), draw with pipe\(aux=...\)"
    with pytest.raises(ValueError, match=message):
        other.sample_factors({"shape": 0.1})


def test_pictures_are_returned_by_default(pipe: IVAEDiffusionPipeline) -> None:
    assert np.asarray(pipe.edit(IMAGES, {}, num_inference_steps=1).images[0]).shape == (16, 16, 3)
