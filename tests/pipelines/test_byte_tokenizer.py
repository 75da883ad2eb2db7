"""The pipeline made on the spot."""

import pytest
import torch

from diffusers_video import TextToVideoPipeline
from diffusers_video.pipelines.untrained import build_byte_tokenizer, build_untrained_pipeline


def test_it_makes_finite_frames_of_the_default_size_that_follow_the_prompt() -> None:
    pipeline = build_untrained_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    texts = ("a red circle", "a blue square")
    first, second = (
        pipeline(text, num_inference_steps=1, output_type="pt", generator=torch.Generator().manual_seed(0)).frames
        for text in texts
    )
    assert first.shape == (1, 16, 3, 64, 64) and torch.isfinite(first).all()
    assert first.std() > 0.01 and not torch.equal(first, second)


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (build_untrained_pipeline(seed).unet.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["conv_in.weight"], other["conv_in.weight"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("preset", ["light", "videoldm"])
def test_the_preset_decides_the_temporal_layers(preset: str) -> None:
    assert build_untrained_pipeline(preset=preset).unet.config.temporal_feed_forward is (preset == "videoldm")


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="`preset` must be one of"):
        build_untrained_pipeline(preset="heavy")


def test_it_is_saved_and_loaded_like_any_other(tmp_path: pytest.TempPathFactory) -> None:
    pipeline = build_untrained_pipeline()
    pipeline.save_pretrained(tmp_path)
    loaded = TextToVideoPipeline.from_pretrained(tmp_path)
    for name, weight in pipeline.unet.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[name], weight)
    text = "Ein grüner Kreis, 緑の円 🟢"
    assert loaded.tokenizer(text).input_ids == pipeline.tokenizer(text).input_ids


def test_the_tokenizer_reads_every_text_byte_by_byte() -> None:
    tokenizer = build_byte_tokenizer()
    text = "naïve 緑 🟢"
    tokens = tokenizer(text).input_ids
    assert len(tokens) == len(text.replace(" ", "").encode()) + 2 and max(tokens) < 514
    assert tokens[0] == 512 and tokens[-1] == 513 and tokenizer.unk_token_id not in tokens[1:-1]
    assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == text


def test_the_tokenizer_pads_and_cuts_to_its_length() -> None:
    tokenizer = build_byte_tokenizer(model_max_length=6)
    rows = tokenizer(["a", "abcdefgh"], padding="max_length", truncation=True).input_ids
    assert [len(row) for row in rows] == [6, 6]
