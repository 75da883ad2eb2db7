"""Checkpoints of LVDM and VideoCrafter: converted, they compute what they computed; all others are refused by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet3DConditionModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel
from typer.testing import CliRunner, Result

from diffusers_video import AutoencoderKL3D, UNetSpaceTimeModel, cli
from diffusers_video.conditioning.guidance import chain_guidance
from diffusers_video.conversion.lvdm import convert_lvdm, holds_lvdm, load_lvdm, select_unet
from diffusers_video.conversion.lvdm_original import unet_options, unet_weights
from diffusers_video.conversion.videocrafter import convert_videocrafter2_unet
from diffusers_video.layers.context_embedding import place_context
from diffusers_video.pipelines.checkpoint_tensors import read_folder_table
from diffusers_video.pipelines.latents import scale_latents, unscale_latents

from ..test_cli import error_of
from ..tiny_space_time import space_time_inputs, tiny_space_time
from .lvdm_names import original_autoencoder, original_unet
from .svd_names import original_vae


def close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    """Compare, relative to the largest value; measured for networks: 1.4e-6 at most."""
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance * float(want.abs().max()))


def weights_of(golden: object) -> dict[str, Tensor]:
    return {k.removeprefix("weights."): v.float() for k, v in golden.tensors.items() if k.startswith("weights.")}


def golden_unet(golden: object) -> UNetSpaceTimeModel:
    weights = weights_of(golden)
    unet = UNetSpaceTimeModel(**unet_options({name: tuple(tensor.shape) for name, tensor in weights.items()}))
    unet.load_state_dict(unet_weights(weights))
    return unet.eval()


@pytest.mark.parametrize("name", ["lvdm_unet_uncond", "lvdm_unet_text2video", "videocrafter_unet_t2v_v1"])
def test_golden_unet(load_golden: Callable, name: str) -> None:
    golden = load_golden(name)
    unet, inputs = golden_unet(golden), {k[7:]: v for k, v in golden.tensors.items() if k.startswith("inputs.")}
    conditions = {"encoder_hidden_states": inputs.get("context"), "fps": inputs.get("fps")}
    with torch.no_grad():
        close(unet(inputs["x"], inputs["timesteps"], **conditions).sample, golden.tensors["outputs.sample"])
        if "fps" in inputs:
            conditions["fps"] = 16
            got = unet(inputs["x"], inputs["timesteps"], **conditions).sample
            close(got, golden.tensors["outputs.sample_default_fps"])


def test_golden_unet_of_given_frames(load_golden: Callable) -> None:
    golden = load_golden("lvdm_unet_cond")
    unet, tensors = golden_unet(golden), golden.tensors
    sample, timesteps = tensors["inputs.x"], tensors["inputs.timesteps"]
    first, ends = torch.zeros_like(sample), torch.zeros_like(sample)
    first[:, :, :1] = tensors["inputs.cond_pred"]
    ends[:, :, [0, -1]] = tensors["inputs.cond_interp"]
    with torch.no_grad():
        for kind, context in (("pred", first), ("interp", ends)):
            mask = tensors[f"inputs.mask_{kind}"][:, 0, :, 0, 0].bool()
            given = {"context_latents": context, "frame_mask": mask, "noise_level": tensors["inputs.s"]}
            close(unet(sample, timesteps, **given).sample, tensors[f"outputs.{kind}"])
        close(unet(sample, timesteps).sample, tensors["outputs.uncond"])


def test_golden_unet_of_videocrafter2_is_diffusers_own(load_golden: Callable) -> None:
    golden = load_golden("videocrafter_unet_t2v_v2")
    weights, tensors = weights_of(golden), golden.tensors
    for row, fps in enumerate([*tensors["inputs.fps"].tolist(), 16]):
        unet = convert_videocrafter2_unet(weights, fps=fps)
        assert type(unet) is UNet3DConditionModel
        rows, name = (slice(row, row + 1), "sample") if row < 2 else (slice(None), "sample_default_fps")
        with torch.no_grad():
            got = unet(
                tensors["inputs.x"][rows],
                tensors["inputs.timesteps"][rows],
                encoder_hidden_states=tensors["inputs.context"][rows],
            ).sample
        close(got, tensors[f"outputs.{name}"][rows])


@pytest.fixture(scope="module")
def tensors(load_golden: Callable) -> dict[str, Tensor]:
    return load_golden("lvdm_diffusion").tensors


SCHEDULE = {"beta_start": 0.0015, "beta_end": 0.0155, "beta_schedule": "scaled_linear", "clip_sample": False}


def test_golden_schedule_and_posterior_are_those_of_diffusers(tensors: dict[str, Tensor]) -> None:
    scheduler = DDPMScheduler(**SCHEDULE)
    close(scheduler.betas, tensors["outputs.schedule.betas"])
    close(scheduler.alphas_cumprod, tensors["outputs.schedule.alphas_cumprod"])
    # The weights of the clean and of the noisy sample in the mean, from steps of unit samples.
    sampler = DDPMScheduler(**SCHEDULE, prediction_type="sample")
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    for timestep in (0, 1, 250, 999):
        noise = randn_tensor((1, 1), generator=torch.Generator().manual_seed(0))
        deviation = tensors["outputs.schedule.posterior_variance"][timestep].sqrt() * (timestep > 0)
        for name, clean, noisy in (("coef1", one, zero), ("coef2", zero, one)):
            got = sampler.step(clean, timestep, noisy, generator=torch.Generator().manual_seed(0)).prev_sample
            want = tensors[f"outputs.schedule.posterior_mean_{name}"][timestep]
            torch.testing.assert_close((got - deviation * noise).squeeze(), want, rtol=1e-4, atol=2e-6)
        log_variance = scheduler._get_variance(timestep).log()
        if timestep > 0:  # where the reference's first entry is clipped to the second, diffusers' is to 1e-20
            close(log_variance, tensors["outputs.schedule.posterior_log_variance_clipped"][timestep])


def test_golden_ancestral_step_is_that_of_diffusers(tensors: dict[str, Tensor]) -> None:
    scheduler = DDPMScheduler(**SCHEDULE)
    for row, timestep in enumerate(tensors["inputs.t"].long().tolist()):
        sample, noise_pred = (tensors[f"inputs.{name}"][row : row + 1] for name in ("x", "eps_cond"))
        noise = randn_tensor(sample.shape, generator=torch.Generator().manual_seed(0))
        step = scheduler.step(noise_pred, timestep, sample, generator=torch.Generator().manual_seed(0))
        variance = tensors["outputs.ddpm.log_variance"][row].exp()
        close(step.prev_sample - variance.sqrt() * noise, tensors["outputs.ddpm.mean"][row : row + 1])


def test_golden_ddim_and_guidance_are_ours(tensors: dict[str, Tensor]) -> None:
    scheduler = load_scheduler()
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.flip(0).tolist() == tensors["outputs.ddim.timesteps"].tolist()
    outputs = [tensors["inputs.eps_uncond"], tensors["inputs.eps_cond"]]
    # LVDM's unconditional guidance of weight 0.1 is a scale of 1.1.
    scales = {"plain": 1.0, "cfg15": 15.0, "uncond_guidance0.1": 1.1}
    for index in (0, 25, 49):
        timestep = scheduler.timesteps[49 - index]
        for name, scale in scales.items():
            noise_pred = chain_guidance(outputs, [scale])
            noise = tensors["inputs.step_noise"]
            step = scheduler.step(noise_pred, timestep, tensors["inputs.x"], eta=1.0, variance_noise=noise)
            want = {part: tensors[f"outputs.ddim.step{index}.{name}.{part}"] for part in ("x_prev", "pred_x0")}
            close(step.prev_sample, want["x_prev"], 5e-5)  # measured: 1.5e-5, from a scale of 15 in float32
            close(step.pred_original_sample, want["pred_x0"], 5e-5)


def load_scheduler() -> DDIMScheduler:
    """The one that the converter writes."""
    from diffusers_video.conversion.lvdm import _scheduler

    return _scheduler(has_text=False)


def test_golden_perturbation_and_scale_of_latents_are_ours(tensors: dict[str, Tensor]) -> None:
    scheduler = load_scheduler()
    noisy = {}
    for name, timesteps in (("t", tensors["inputs.t"]), ("s", tensors["inputs.s"])):
        noisy[name] = scheduler.add_noise(tensors["inputs.x_start"], tensors[f"inputs.noise_{name}"], timesteps.long())
        close(noisy[name], tensors[f"outputs.q_sample_{name}"])
    mask = tensors["inputs.mask"][:, 0, :, 0, 0].bool()
    placed = place_context(noisy["t"], noisy["s"], mask)
    close(placed[:, :4], tensors["outputs.train.x_noisy"])
    assert torch.equal(placed[:, 4:], tensors["inputs.mask"])
    target = place_context(tensors["inputs.noise_t"], tensors["inputs.noise_s"], mask)[:, :4]
    close(target, tensors["outputs.train.target"])
    loss = nn.functional.l1_loss(tensors["inputs.model_output"], target)
    close(loss[None], tensors["outputs.train.loss_l1"])
    vae = AutoencoderKL3D(**TINY_VAE, scaling_factor=0.33422927, shift_factor=-1.4606637)
    close(scale_latents(vae, tensors["inputs.x_start"]), tensors["outputs.scaled_latent"])
    latents = scale_latents(vae, tensors["inputs.x_start"])
    close(unscale_latents(vae, latents), tensors["inputs.x_start"])


TINY_VAE = {"block_out_channels": (32, 32, 32), "downsample_factors": (4, 4, 4)}


def tiny_vae() -> AutoencoderKL3D:
    torch.manual_seed(0)
    return AutoencoderKL3D(**TINY_VAE).eval()


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def lightning(tensors: dict[str, Tensor]) -> dict[str, object]:
    """What the training framework saves around the weights."""
    return {"epoch": 3, "global_step": 7, "state_dict": tensors, "callbacks": {}, "lr_schedulers": []}


def released_unet(kind: str = "released") -> UNetSpaceTimeModel:
    options = {"block_out_channels": (32, 64), "norm_num_groups": 32}
    if kind == "lvdm":
        options["relative_positions"] = "released"
    return tiny_space_time(kind, **options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prediction model with averaged weights and its autoencoder, in one file."""
    path = tmp_path_factory.mktemp("lvdm") / "prediction.ckpt"
    unet = original_unet(released_unet())
    tensors = prefixed("model.diffusion_model.", unet)
    tensors |= {f"model_ema.diffusion_model{name.replace('.', '')}": tensor * 2 for name, tensor in unet.items()}
    tensors |= {"model_ema.decay": torch.tensor(0.9999), "betas": torch.ones(3)}
    tensors |= prefixed("first_stage_model.", {**original_autoencoder(tiny_vae()), "loss.logvar": torch.zeros(())})
    torch.save(lightning(tensors), path)
    return path


@pytest.mark.parametrize("kind", ["lvdm", "released", "lvdm_text"])
def test_names_and_options_come_back(kind: str) -> None:
    unet = released_unet(kind)
    original = original_unet(unet)
    assert (
        unet_options({name: tuple(tensor.shape) for name, tensor in original.items()}).items()
        <= {**{name: tuple(v) if isinstance(v, list) else v for name, v in unet.config.items()}}.items()
    )
    weights = unet_weights(original)
    assert weights.keys() == unet.state_dict().keys()
    assert all(torch.equal(tensor, unet.state_dict()[name]) for name, tensor in weights.items())


def test_a_checkpoint_becomes_a_folder_of_its_models(checkpoint: Path, tmp_path: Path) -> None:
    done = []
    folders = convert_lvdm(checkpoint, tmp_path / "out", trained_on="sky", progress=lambda *n: done.append(n))
    assert sorted(folders) == ["scheduler", "unet", "vae"] and done == [(1, 3), (2, 3), (3, 3)]
    unet = UNetSpaceTimeModel.from_pretrained(tmp_path / "out" / "unet")
    plain = released_unet()
    assert all(torch.equal(tensor, 2 * plain.state_dict()[name]) for name, tensor in unet.state_dict().items())
    vae = AutoencoderKL3D.from_pretrained(tmp_path / "out" / "vae")
    assert (vae.config.scaling_factor, vae.config.shift_factor) == (0.33422927, -1.4606637)
    assert list(vae.config.downsample_factors) == [4, 4, 4]
    video = torch.rand(1, 3, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(vae(video).sample, tiny_vae()(video).sample)
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "out" / "scheduler")
    assert (scheduler.config.beta_start, scheduler.config.beta_end) == (0.0015, 0.0155)


def test_plain_weights_type_and_an_autoencoder_alone(checkpoint: Path, tmp_path: Path) -> None:
    models = load_lvdm(checkpoint, trained_on="ucf", use_ema=False, dtype=torch.float64)
    inputs = space_time_inputs(models["unet"])
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    with torch.no_grad():
        close(models["unet"](**inputs).sample, released_unet().double()(**inputs).sample, 1e-12)
    assert models["vae"].dtype == torch.float64
    torch.save(lightning(original_autoencoder(tiny_vae())), tmp_path / "ae_sky.ckpt")
    assert holds_lvdm(tmp_path / "ae_sky.ckpt")
    models = load_lvdm(tmp_path / "ae_sky.ckpt", trained_on="taichi")
    assert list(models) == ["vae"] and models["vae"].config.shift_factor == -0.03291025


def test_text_to_video_brings_its_image_autoencoder_and_text_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = released_unet("lvdm_text")
    widths = {"block_out_channels": (32, 64), "latent_channels": 4, "layers_per_block": 1}
    types = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = AutoencoderKL(**widths, **types).eval()
    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 1}
    tokens = {"vocab_size": 9, "max_position_embeddings": 7, "bos_token_id": 0, "eos_token_id": 1}
    text_encoder = CLIPTextModel(CLIPTextConfig(**sizes, **tokens)).eval()
    text = prefixed("text_model.", text_encoder.state_dict())
    text["text_model.embeddings.position_ids"] = torch.arange(7)[None]
    tensors = prefixed("model.diffusion_model.", original_unet(unet))
    tensors |= prefixed("first_stage_model.", original_vae(vae)) | prefixed("cond_stage_model.transformer.", text)
    torch.save(lightning(tensors), tmp_path / "t2v.ckpt")
    models = load_lvdm(tmp_path / "t2v.ckpt")
    assert models["scheduler"].config.beta_end == 0.012
    ids, image = torch.tensor([[2, 3, 1]]), torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        got = models["text_encoder"](ids).last_hidden_state
        close(got, text_encoder(ids).last_hidden_state)
        close(models["vae"](image).sample, vae(image).sample)
        inputs = space_time_inputs(unet)
        close(models["unet"](**inputs).sample, unet(**inputs).sample)


def test_averaged_weights_are_found_without_dots() -> None:
    plain = {"model.diffusion_model.a.0.weight": 1, "model.diffusion_model.a.0.bias": 2}
    averaged = {"model_ema.diffusion_modela0weight": 3, "model_ema.diffusion_modela0bias": 4, "model_ema.decay": 5}
    assert select_unet(plain) == {"a.0.weight": 1, "a.0.bias": 2}
    assert select_unet(plain | averaged) == {"a.0.weight": 3, "a.0.bias": 4}
    assert select_unet(plain | averaged, use_ema=False) == {"a.0.weight": 1, "a.0.bias": 2}
    del averaged["model_ema.diffusion_modela0bias"]
    with pytest.raises(ValueError, match="averaged weights of the whole U-Net, but lacks 1, such as 'a.0.bias'"):
        select_unet(plain | averaged)


def test_bad_checkpoints_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`source` must be a weight file"):
        load_lvdm(tmp_path / "nowhere.ckpt")
    with pytest.raises(ValueError, match="`trained_on` must be given for the autoencoder"):
        load_lvdm(checkpoint)
    with pytest.raises(ValueError, match="`trained_on` must be one of .* but is 'cats'"):
        load_lvdm(checkpoint, trained_on="cats")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work").touch()
    with pytest.raises(FileExistsError, match="`output` must be a new or empty folder"):
        convert_lvdm(checkpoint, tmp_path / "mine", trained_on="sky")
    original = original_unet(released_unet())
    files = {
        "other": ({"a": torch.zeros(1)}, "`source` must be a checkpoint of LVDM or VideoCrafter"),
        "left": ({**original, "strange.weight": torch.zeros(1)}, "has left over 'strange.weight'"),
        "less": ({k: v for k, v in original.items() if k != "out.0.bias"}, "lacks 'conv_norm_out.bias'"),
        "no_end": ({k: v for k, v in original.items() if k != "out.2.weight"}, "lacks the weight 'out.2.weight'"),
    }
    for name, (tensors, message) in files.items():
        torch.save(lightning(prefixed("model.diffusion_model.", tensors)), tmp_path / f"{name}.ckpt")
        with pytest.raises(ValueError, match=message):
            load_lvdm(tmp_path / f"{name}.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".ckpt") == ["mine"]


class Strange:
    """What a harmful pickle would hold."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("ran-code"),))


def test_code_in_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"encoder.conv_first.conv.weight": torch.zeros(1)}, "extra": Strange()}, "bad.ckpt")
    with pytest.raises(ValueError, match="must be a PyTorch file that holds tensors only"):
        load_lvdm("bad.ckpt")
    assert not (tmp_path / "ran-code").exists()


def test_the_command_converts_and_refuses(checkpoint: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(cli.app, ["convert", str(checkpoint), *map(str, arguments)])

    result = run(tmp_path / "out", "--trained-on", "sky", "--no-ema", "--dtype", "float16")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"Wrote {tmp_path / 'out'}: its folders are unet, scheduler, vae;")
    assert set(read_folder_table(tmp_path / "out" / "unet").parameters_by_dtype()) == {"float16"}
    assert "`trained_on` must be given" in error_of(run(tmp_path / "other"))
    assert "`--num-frames` has no effect on checkpoints of LVDM" in error_of(run(tmp_path / "x", "--num-frames", 3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_videocrafter2_needs_a_frame_rate_above_zero() -> None:
    with pytest.raises(ValueError, match="`fps` must be above 0, but is 0"):
        convert_videocrafter2_unet({}, fps=0)
    with pytest.raises(ValueError, match="must hold a U-Net of VideoCrafter 2, but lacks the weight"):
        convert_videocrafter2_unet({"time_embed.0.weight": torch.zeros(1)})
