"""Train the text encoder of the `shapes` model to tell what a caption says.

Its tokenizer lies beside this script: the library that made it numbers some pieces by chance, and every later weight
follows from these numbers.
"""

import logging
from argparse import ArgumentParser
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusers_video.data.shapes import COLOURS, MOTIONS, SHAPES, ShapesDataset
from diffusers_video.pipelines.byte_tokenizer import build_byte_tokenizer


TOKENIZER = Path(__file__).parent / "tokenizer"
MAX_TOKENS, WIDTH, VOCABULARY = 32, 64, 640
ATTRIBUTES = {"shape": list(SHAPES), "colour": list(COLOURS), "motion": list(MOTIONS)}


def read_captions(num_captions: int, seed: int) -> tuple[list[str], Tensor]:
    """Captions of one and of two objects, and per caption the numbers of what they name; 0 is nothing."""
    sets = [ShapesDataset(num_captions // 2, seed=seed, num_objects=count) for count in (1, 2)]
    scenes = [dataset.scene(index) for dataset in sets for index in range(len(dataset))]
    rows = []
    for scene in scenes:
        row = [1 + names.index(getattr(item, name)) for item in scene.objects for name, names in ATTRIBUTES.items()]
        rows.append(row + [0] * (6 - len(row)))
    return [scene.caption for scene in scenes], torch.tensor(rows)


def main(
    folder: Path, steps: int, has_new_tokenizer: bool = False, batch_size: int = 128, learning_rate: float = 2e-3
) -> None:
    torch.manual_seed(0)
    texts, labels = read_captions(20_000, seed=0)
    if has_new_tokenizer:
        tokenizer = build_byte_tokenizer(MAX_TOKENS).train_new_from_iterator(texts, VOCABULARY)
    else:
        tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=WIDTH,
            **special,
        )  # fmt: skip
    )
    heads = nn.ModuleList(nn.Linear(WIDTH, 1 + len(names)) for _ in range(2) for names in ATTRIBUTES.values())
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    for step in range(steps):
        chosen = torch.randint(len(tokens), (batch_size,))
        states = encoder(tokens[chosen])
        read = torch.stack([states.pooler_output, states.last_hidden_state[:, -1]])  # end of text, end of padding
        losses = [nn.functional.cross_entropy(head(read).flatten(0, 1), labels[chosen, part].repeat(2))
                  for part, head in enumerate(heads)]  # fmt: skip
        torch.stack(losses).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 99:
            logging.info(f"Step {step + 1}: loss {torch.stack(losses).mean().item():.4f}")
    texts, labels = read_captions(2_000, seed=1)
    with torch.no_grad():
        read = encoder(**tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")).pooler_output
        right = torch.stack([head(read).argmax(-1) == labels[:, part] for part, head in enumerate(heads)])
    logging.info(f"Captions read without an error: {right.all(0).float().mean():.1%} of {len(texts)} held-out ones")
    encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--max_train_steps", type=int, default=600)
    parser.add_argument("--new_tokenizer", action="store_true", help="Make it anew instead of taking the one here")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parser.parse_args()
    main(options.output_dir, options.max_train_steps, options.new_tokenizer)
