"""A tokenizer for new text encoders: it reads every text, and there is nothing to download."""

from transformers import CLIPTokenizer


MAX_TOKENS = 77
_START, _END = "<|startoftext|>", "<|endoftext|>"
_BYTES_WITH_A_CHARACTER = (*range(33, 127), *range(161, 173), *range(174, 256))


def build_byte_tokenizer(model_max_length: int = MAX_TOKENS) -> CLIPTokenizer:
    """
    Make a CLIP tokenizer with one token for each byte; its `train_new_from_iterator` learns longer ones.

    Args:
        model_max_length (`int`, *optional*, defaults to 77): Tokens of a padded prompt.

    Returns:
        `CLIPTokenizer`: With 514 tokens: each byte inside a word and at its end, and the two that enclose a prompt.

    Source:
        The byte-level alphabet of GPT-2, which CLIP's tokenizer uses: a byte without a printable character gets one
        from 256 on.
    """
    others = iter(range(256, 512))
    letters = [chr(byte if byte in _BYTES_WITH_A_CHARACTER else next(others)) for byte in range(256)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), _START, _END]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=model_max_length)
