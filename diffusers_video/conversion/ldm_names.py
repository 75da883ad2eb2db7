"""Places in U-Nets of the latent-diffusion family as their original code numbers them -> places in our layout."""

import re
from collections.abc import Iterable, Mapping


_BLOCK = re.compile(r"(input_blocks|output_blocks|middle_block)\.(\d+)\.(?:(\d+)\.)?(.+)")
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
    "nin_shortcut": "conv_shortcut",
}
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def count_layers(names: Iterable[str]) -> int:
    """
    Count the residual blocks of a level.

    Args:
        names (`Iterable[str]`): Names of the weights.

    Returns:
        `int`: Their number: the first down-sampler comes after `input_blocks.0` and these.
    """
    downs = [int(name.split(".")[1]) for name in names if name.startswith("input_blocks.") and ".0.op." in name]
    return min(downs, default=2) - 1


def level_widths(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """
    Read the channels of the levels.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): Shapes by original name.

    Returns:
        `tuple[int, ...]`: From the finest level on.

    Raises:
        KeyError: If a weight that tells them is missing.
    """
    return tuple(shapes[f"input_blocks.{start}.0.out_layers.3.weight"][0] for start in level_starts(shapes))


def level_starts(names: Iterable[str]) -> list[int]:
    """
    Find the first block of each level.

    Args:
        names (`Iterable[str]`): Names of the weights.

    Returns:
        `list[int]`: Numbers of `input_blocks`.
    """
    names = list(names)
    levels = 1 + sum(name.startswith("input_blocks.") and name.endswith(".0.op.weight") for name in names)
    return [1 + level * (count_layers(names) + 1) for level in range(levels)]


def locate(name: str, layers: int, middle_end: int = 2) -> tuple[str, str, int] | None:
    """
    Find the place of a weight.

    Args:
        name (`str`): Its original name.
        layers (`int`): See [`count_layers`].
        middle_end (`int`, *optional*, defaults to 2): Number of the last layer of the middle block.

    Returns:
        `tuple[str, str, int]`: The layer, such as `"down_blocks.0.resnets.1"` or `"up_blocks.0.upsamplers.0"`, the
        rest of the name, and which of the layers at this place it is: 0 for a residual block or sampler, 1 for what
        stands behind it, 2 for what stands behind that. `None` for names outside the blocks.
    """
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    part, number, position, rest = match.groups()
    if part == "middle_block":
        place = int(number)
        if place in (0, middle_end):
            return f"mid_block.resnets.{int(place > 0)}", rest, 0
        return "mid_block.attentions.0", rest, place
    is_down = part == "input_blocks"
    block, layer = divmod(int(number) - is_down, layers + 1)
    block = f"{'down' if is_down else 'up'}_blocks.{block}"
    if is_down and rest.startswith("op."):
        return f"{block}.downsamplers.0", f"conv.{rest.removeprefix('op.')}", 0
    if not is_down and rest.startswith("conv."):
        return f"{block}.upsamplers.0", rest, 0
    kind = "resnets" if position == "0" else "attentions"
    return f"{block}.{kind}.{layer}", rest, int(position or 0)


def swap(name: str, table: Mapping[str, str]) -> str:
    """
    Replace the beginning of a name.

    Args:
        name (`str`): Parts between dots.
        table (`Mapping[str, str]`): What stands for which beginning, whole parts only.

    Returns:
        `str`: The name with it, or the name itself.
    """
    for theirs, ours in table.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    return name
