"""The tokenizer of bytes."""

from pathlib import Path

from transformers import CLIPTokenizer

from diffusers_video.pipelines.byte_tokenizer import build_byte_tokenizer


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


def test_a_saved_tokenizer_reads_as_before(tmp_path: Path) -> None:
    tokenizer = build_byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    text = "Ein grüner Kreis, 緑の円 🟢"
    assert CLIPTokenizer.from_pretrained(tmp_path)(text).input_ids == tokenizer(text).input_ids


def test_longer_tokens_are_learned_and_every_text_is_still_read() -> None:
    tokenizer = build_byte_tokenizer(12).train_new_from_iterator(["a red circle", "a red square"] * 5, 600)
    assert tokenizer.tokenize("a red circle") == ["a</w>", "red</w>", "circle</w>"]
    assert tokenizer.unk_token_id not in tokenizer("zebra").input_ids[1:-1]
    assert tokenizer.model_max_length == 12
