"""Weights of I3D and C3D in the forms in which they circulate."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusers_video.metrics import feature_networks
from diffusers_video.metrics.c3d import C3D
from diffusers_video.metrics.feature_networks import load_c3d, load_i3d
from diffusers_video.metrics.i3d import I3D
from diffusers_video.metrics.weight_files import find_weights, load_weights


class ScriptedI3D(nn.Module):
    """What the TorchScript file of FVD can be asked for; says how it was asked."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        mean = x.mean([1, 2, 3, 4])
        flags = torch.tensor([rescale, resize, return_features], dtype=mean.dtype)
        return torch.cat([mean[:, None], flags.expand(x.shape[0], 3)], dim=1)


class ScriptedC3D(nn.Module):
    """What the TorchScript file of C3D takes and returns: bytes, and probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8
        share = x.float().mean([1, 2, 3, 4]) / 255
        return torch.stack([share, 1 - share], dim=1)


def tiny_c3d() -> C3D:
    return C3D(num_classes=3, base_channels=1, num_hidden=2)


def chainer_arrays(network: C3D) -> dict[str, np.ndarray]:
    endings = {"weight": "W", "bias": "b"}
    names = [name.rpartition(".") for name in network.state_dict() if name != "mean"]
    return {f"{a}/{endings[b]}": network.state_dict()[f"{a}.{b}"].numpy() for a, _, b in names}


def save_c3d(network: C3D, path: Path) -> Path:
    state = network.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix == ".npz":
        np.savez(path, **chainer_arrays(network))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.stem != "legacy")
    return path


@pytest.mark.parametrize("name", ["new.pt", "legacy.pt", "some.safetensors", "chainer.npz"])
def test_every_form_gives_the_same_network(tmp_path: Path, name: str) -> None:
    source, target = tiny_c3d(), tiny_c3d()
    file = find_weights(save_c3d(source, tmp_path / name))
    mean = None
    if file.kind == "npz":
        mean_clip = np.random.default_rng(0).random((3, 16, 128, 171)).astype(np.float32)
        np.savez(tmp_path / "mean.npz", mean=mean_clip)
        mean = tmp_path / "mean.npz"
        source.mean.copy_(torch.from_numpy(mean_clip[:, :, 8:120, 8:120]))  # what TGAN2 cuts out
    load_weights(target, file, mean)
    assert all(torch.equal(weight, target.state_dict()[name]) for name, weight in source.state_dict().items())
    assert file.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_a_state_dict_becomes_the_network_of_fvd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_networks, "I3D", lambda convention: I3D(4, convention=convention))
    source = I3D(4)
    torch.save(source.state_dict(), tmp_path / "i3d.pt")
    network = load_i3d(tmp_path / "i3d.pt")
    assert network.is_fvd and network.size == 224
    assert network.describe()["weights_sha256"] == find_weights(tmp_path / "i3d.pt").sha256
    assert network.describe()["convention"] == "fvd"
    assert torch.equal(network.function.Mixed_4c.b2b.conv3d.weight, source.Mixed_4c.b2b.conv3d.weight)
    other = load_i3d(tmp_path / "i3d.pt", convention="original")
    assert not other.is_fvd and other.function.network.convention.eps == 1e-3


def test_the_script_of_fvd_gets_clips_that_are_ready(tmp_path: Path) -> None:
    torch.jit.script(ScriptedI3D()).save(tmp_path / "i3d_torchscript.pt")
    network = load_i3d(tmp_path / "i3d_torchscript.pt")
    clips = [torch.full((9, 3, 20, 30), value, dtype=torch.uint8) for value in (0, 255)]
    got = network(clips)
    torch.testing.assert_close(got, torch.tensor([[-1.0, 0, 0, 1], [1, 0, 0, 1]]))
    assert network.is_fvd and network.details["file_kind"] == "torchscript"


def test_the_script_of_c3d_gets_bytes_and_gives_logits(tmp_path: Path) -> None:
    torch.jit.script(ScriptedC3D()).save(tmp_path / "c3d_ucf101.pt")
    network = load_c3d(tmp_path / "c3d_ucf101.pt")
    clips = [torch.full((16, 3, 8, 8), value, dtype=torch.uint8) for value in (0, 51)]
    torch.testing.assert_close(network(clips, "none").softmax(1), torch.tensor([[0.0, 1], [0.2, 0.8]]))


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    file = find_weights(save_c3d(tiny_c3d(), tmp_path / "c3d.pt"))
    with pytest.raises(ValueError, match=r"c3d.pt' must hold the weights of a Linear .* lacks 'bias', 'weight'"):
        load_weights(nn.Linear(2, 2), file)
    with pytest.raises(ValueError, match="has in another shape 'conv1a.bias'"):
        load_weights(C3D(num_classes=3, base_channels=2, num_hidden=2), file)


def test_a_script_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.jit.script(ScriptedC3D()).save(tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"must take the arguments \['x', 'rescale'.*but takes \['x'\]"):
        load_i3d(tmp_path / "other.pt")


@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors", "cut.npz"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    path = save_c3d(tiny_c3d(), tmp_path / name)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match="cut.* must be a"):
        load_weights(tiny_c3d(), find_weights(path))


def test_a_pickle_of_other_things_is_not_run(tmp_path: Path) -> None:
    torch.save({"weights": Path("x")}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="must be a PyTorch file that holds tensors only"):
        load_weights(tiny_c3d(), find_weights(tmp_path / "bad.pt"))
    np.savez(tmp_path / "bad.npz", **{"conv1a/W": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match="must be an npz file of numbers"):
        load_weights(tiny_c3d(), find_weights(tmp_path / "bad.npz"))


def test_missing_files_and_addresses_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`weights` must be a file of weights or an address"):
        find_weights(tmp_path / "nothing.pt")
    with pytest.raises(OSError, match="'i3d.pt' of 'somebody/nothing' cannot be fetched"):
        find_weights("somebody/nothing/i3d.pt")
    path = save_c3d(tiny_c3d(), tmp_path / "c3d.pt")
    with pytest.raises(ValueError, match="`revision` has no effect"):
        find_weights(path, revision="main")


def test_the_mean_clip_goes_with_npz_files_only(tmp_path: Path) -> None:
    for name, mean in (("a.pt", "mean.npz"), ("b.npz", None)):
        path = save_c3d(tiny_c3d(), tmp_path / name)
        with pytest.raises(ValueError, match="`mean` must be given with Chainer's npz file and only there"):
            load_c3d(path, mean=mean)
    np.savez(tmp_path / "mean.npz", mean=np.zeros((3, 16, 112, 112)))
    with pytest.raises(ValueError, match=r"shape \(3, 16, 128, 171\)"):
        load_weights(tiny_c3d(), find_weights(tmp_path / "b.npz"), tmp_path / "mean.npz")
