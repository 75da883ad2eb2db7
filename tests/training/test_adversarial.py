"""Adversarial losses and the perceptual distance, against what they are by hand; who gets which gradient."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from diffusers_video import AutoencoderKLVideo
from diffusers_video.models.discriminators import VideoPatchDiscriminator
from diffusers_video.training.adversarial import AdversarialAutoencoder, adaptive_weight, hinge_loss
from diffusers_video.training.frame_and_clip_judges import fooling_loss
from diffusers_video.training.perceptual import PerceptualDistance

from ..tiny_pipelines import tiny_vae


def adversarial_model() -> AdversarialAutoencoder:
    vae = AutoencoderKLVideo.from_autoencoder_kl(tiny_vae())
    vae.freeze_spatial_layers()
    return AdversarialAutoencoder(vae, VideoPatchDiscriminator(base_channels=8, num_layers=2))


def with_gradient(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0}


def test_each_network_gets_the_gradients_of_its_own_loss() -> None:
    model, videos = adversarial_model(), torch.rand(2, 3, 3, 16, 16) * 2 - 1
    judged = model(videos, torch.Generator())
    fooling_loss(judged.to_fool, judged.of_real, feature_weight=0.0).backward()
    assert (names := with_gradient(model)) and all(name.startswith("vae.decoder.") for name in names)
    model.zero_grad()
    judged = model(videos, torch.Generator())
    hinge_loss(judged.of_made[0].logits, judged.of_real[0].logits.detach()).backward()
    assert with_gradient(model) == {f"discriminator.{name}" for name, _ in model.discriminator.named_parameters()}


def test_both_judgements_of_reconstructions_agree_and_held_out_clips_get_none() -> None:
    model, videos = adversarial_model().eval(), torch.rand(2, 3, 3, 16, 16)
    with torch.no_grad():
        judged = model(videos, torch.Generator().manual_seed(0))
        (to_fool,), (of_made,), (of_real,) = judged.to_fool, judged.of_made, judged.of_real
        torch.testing.assert_close(to_fool.logits, of_made.logits)
        torch.testing.assert_close(of_real.logits, model.discriminator(videos))
        silent = model(videos)
        want = model.vae.decode(model.vae.encode(videos).latent_dist.mode()).sample
    assert torch.equal(silent.reconstructions, want) and silent[1:] == (None,) * 5


def test_before_it_starts_the_discriminator_is_not_run_but_stays_in_the_graph() -> None:
    model, videos, calls = adversarial_model(), torch.rand(2, 3, 3, 16, 16), []
    model.discriminator.register_forward_hook(lambda *_: calls.append(1))
    judged = model(videos, torch.Generator().manual_seed(0), is_judged=False)
    assert judged[1:4] == (None,) * 3 and judged.idle.item() == 0 and not calls
    judged.idle.backward()
    assert all(not weight.grad.any() for weight in model.discriminator.parameters())


def test_hinge_loss_by_hand() -> None:
    made, real = torch.tensor([-2.0, 0.0, 1.0]), torch.tensor([2.0, 1.0, -1.0])
    assert hinge_loss(made, real).item() == pytest.approx(0.5 * ((0 + 1 + 2) / 3 + (0 + 0 + 2) / 3))


def test_adaptive_weight_makes_both_pulls_equal() -> None:
    layer, features = nn.Parameter(torch.randn(4)), torch.randn(4)
    reconstruction, adversarial = (layer * features).sum() * 6, (layer * features.flip(0)).sum() * 2
    weight = adaptive_weight(reconstruction, adversarial, layer)
    assert weight.item() == pytest.approx(3, rel=1e-3) and not weight.requires_grad
    assert adaptive_weight(reconstruction * 1e9, adversarial, layer).item() == 1e4


@pytest.mark.parametrize(
    ("shape", "patches"), [((2, 3, 8, 32, 48), (1, 4, 6)), ((1, 3, 1, 8, 8), (1, 1, 1)), ((1, 3, 9, 17, 9), (2, 2, 1))]
)
def test_discriminator_judges_patches_of_any_video(shape: tuple[int, ...], patches: tuple[int, ...]) -> None:
    assert VideoPatchDiscriminator(base_channels=8)(torch.zeros(shape)).shape == (shape[0], 1, *patches)


def test_discriminator_sees_motion() -> None:
    discriminator, video = VideoPatchDiscriminator(base_channels=8), torch.rand(1, 3, 8, 16, 16)
    shuffled = video[:, :, torch.tensor([3, 1, 7, 0, 5, 2, 6, 4])]
    assert not torch.allclose(discriminator(video), discriminator(shuffled))


def test_a_clip_is_judged_alone() -> None:
    discriminator, videos = VideoPatchDiscriminator(base_channels=8).double(), torch.rand(3, 3, 4, 16, 16).double()
    torch.testing.assert_close(discriminator(videos)[1:2], discriminator(videos[1:2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "`num_layers` must be at least 1"),
        ({"base_channels": 12}, "multiple of `norm_num_groups`=8"),
    ],
)
def test_bad_discriminators_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoPatchDiscriminator(**options)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 3, 2, 4, 8)])
def test_bad_videos_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`videos` must have the shape"):
        VideoPatchDiscriminator()(torch.zeros(shape))


class Edges(nn.Module):
    """A network with two layers: colours, and differences to the right."""

    def forward(self, images: Tensor) -> SimpleNamespace:
        return SimpleNamespace(feature_maps=(images, images.diff(dim=-1)))


def test_perceptual_distance_by_hand() -> None:
    distance = PerceptualDistance(Edges(), mean=(0.5,) * 3, std=(0.5,) * 3)  # so that features are the images
    made, images = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    want = torch.zeros(2)
    for one, other in ((made, images), (made.diff(dim=-1), images.diff(dim=-1))):
        want += 2 - 2 * nn.functional.cosine_similarity(one, other).mean((1, 2))
    torch.testing.assert_close(distance(made, images), want)
    assert distance(images, images).tolist() == [0, 0]
