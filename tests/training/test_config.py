"""Settings: flags, YAML, and every contradiction that is refused."""

from pathlib import Path

import pytest

from diffusers_video.training.base_config import parse_config
from diffusers_video.training.config import VideoUNetConfig


NEEDED = {"pretrained_model_name_or_path": "model", "train_data_dir": "clips", "output_dir": "out"}
FLAGS = [part for name, value in NEEDED.items() for part in (f"--{name}", value)]

WRONG = [
    ({"train": "everything"}, "`train` must be one of"),
    ({"posterior": "mean"}, "`posterior` must be one of"),
    ({"noise_prior": "shared"}, "`noise_prior` must be one of"),
    ({"lr_scheduler": "cosin"}, "`lr_scheduler` must be one of"),
    ({"mixed_precision": "fp8"}, "`mixed_precision` must be one of"),
    ({"prediction_type": "flow"}, "`prediction_type` must be one of"),
    ({"preset": "heavy"}, "`preset` must be one of"),
    ({"temporal_options": "{"}, "`temporal_options` must be JSON"),
    ({"temporal_options": "[1]"}, "`temporal_options` must be an object without"),
    ({"temporal_options": '{"added_time_ids": ["fps"]}'}, "`temporal_options` must be an object without"),
    ({"report_to": ["mlflow"]}, "`report_to` must be out of"),
    ({"fps": 0.0}, "`fps` must be above 0"),
    ({"fps": float("nan")}, "`fps` must be above 0"),
    ({"learning_rate": 0.0}, "`learning_rate` must be above 0"),
    ({"learning_rate": float("inf")}, "`learning_rate` must be above 0"),
    ({"train_batch_size": 0}, "`train_batch_size` must be at least 1"),
    ({"train_batch_size": 1.5}, "`train_batch_size` must be a whole number"),
    ({"caption_dropout": 1.5}, "`caption_dropout` must be at least 0 and at most 1"),
    ({"snr_gamma": -1.0}, "`snr_gamma` must be above 0"),
    ({"checkpoints_total_limit": 0}, "`checkpoints_total_limit` must be at least 1"),
    ({"heldout_fraction": 1.0}, "`heldout_fraction` must be at least 0 and at most 0.9"),
    ({"max_train_steps": None}, "Either `max_train_steps` or `num_train_epochs`"),
    ({"num_train_epochs": 3}, "Either `max_train_steps` or `num_train_epochs`"),
    ({"num_frames": 1}, "`num_frames` must be at least 2 with `train=temporal`"),
    ({"train": "spatial", "num_frames": 8}, "`num_frames` must be 1 with `train=spatial`"),
    ({"train": "spatial", "noise_prior": "mixed"}, "`noise_prior` must be 'independent' with `train=spatial`"),
    ({"noise_prior_strength": 2.0}, "`noise_prior_strength` has no effect"),
    ({"timestep_bias_multiplier": 5.0}, "a range of timesteps"),
    ({"timestep_bias_begin": 600}, "a range of timesteps"),
    ({"timestep_bias_begin": 600, "timestep_bias_end": 600}, "`timestep_bias_begin` must be below"),
    ({"noise_offset_per": "clip"}, "`noise_offset_per` has no effect"),
    ({"image_probability": 0.5}, "`image_probability` must be 0 with `train=temporal`"),
    ({"rank": 4}, "`rank` has an effect only with `train=lora`"),
    ({"train": "lora", "lora_target_modules": []}, "`lora_target_modules` must name at least one"),
    ({"rescale_betas_zero_snr": True, "prediction_type": "epsilon"}, "`rescale_betas_zero_snr` must not be used"),
    ({"resolution": 64, "height": 32}, "`resolution` must not be given with"),
    ({"buckets": ["64x64@8"], "num_frames": 8}, "`num_frames` and `buckets` must not both"),
    ({"buckets": ["64x64"]}, "64x64"),
    ({"train_data_dir": "shapes", "random_flip": True}, "`random_flip` has no effect on `shapes`"),
    ({"train_data_dir": "shapes", "shapes_options": "{"}, "`shapes_options` must be JSON"),
    ({"train_data_dir": "shapes", "shapes_options": '{"seed": 1}'}, "`shapes_options` must be an object without"),
    ({"shapes_options": "{}"}, "`shapes_options` has an effect only"),
    ({"heldout_fraction": 0.2, "heldout_data_dir": "x"}, "Only one of `heldout_fraction` and `heldout_data_dir`"),
    ({"lr_warmup_steps": 5}, "`lr_warmup_steps` has no effect"),
    ({"lr_num_cycles": 5}, "`lr_num_cycles` has an effect only"),
    ({"hub_model_id": "a/b"}, "`hub_model_id` has an effect only"),
    ({"ema_decay": 0.5}, "`ema_decay` has an effect only"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoUNetConfig(**{**NEEDED, "max_train_steps": 10, **settings})


def test_flags_are_read() -> None:
    config = parse_config(
        VideoUNetConfig, [*FLAGS, "--max_train_steps", "7", "--learning_rate", "1e-5", "--use_ema", "--fps", "7.5"]
    )
    assert (config.max_train_steps, config.learning_rate, config.use_ema, config.fps) == (7, 1e-5, True, 7.5)


def test_flags_overrule_the_yaml_file_and_leave_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    lines = [f"{name}: {value}" for name, value in NEEDED.items()]
    path.write_text("\n".join([*lines, "max_train_steps: 7", "learning_rate: 1e-5", "use_ema: true", "fps: 4"]))
    config = parse_config(VideoUNetConfig, [str(path), "--max_train_steps", "9"])
    assert (config.max_train_steps, config.learning_rate, config.use_ema, config.fps) == (9, 1e-5, True, 4.0)
    assert config == VideoUNetConfig(**NEEDED, max_train_steps=9, learning_rate=1e-5, use_ema=True, fps=4.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "sets `learning_rat`, which is no setting"),
        ("learning_rate: fast", "`learning_rate` must be a number"),
        ("- 1", "must hold lines `name: value`"),
        ("a: [", "must be a YAML file"),
        ("max_train_steps: 1", "`train_data_dir` must be given"),
    ],
)
def test_wrong_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_config(VideoUNetConfig, [str(tmp_path / "run.yaml")])


def test_missing_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        parse_config(VideoUNetConfig, [str(tmp_path / "run.yaml")])
