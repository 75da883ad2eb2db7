"""Our pipelines on the Hugging Face Hub: saving, model cards and pushes."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from ._registration import LIBRARY, SHIM_MODULE, with_our_library


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not path.is_file():
        raise ValueError(
            f"`folder` must hold a saved pipeline, but '{folder}' has no model_index.json."
            " Pass the folder that a pipeline's `save_pretrained` wrote."
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"`folder` must hold a saved pipeline, but {path} is not valid JSON ({error}). Save the pipeline again."
        ) from error
    if not isinstance(index, dict):
        raise ValueError(f"`folder` must hold a saved pipeline, but {path} holds no JSON object. Save it again.")
    return with_our_library(index)


def _pipeline_class(index: dict[str, Any], folder: Path) -> type[VideoHubMixin]:
    name = index.get("_class_name")
    library = sys.modules[LIBRARY]
    found = getattr(library, name) if isinstance(name, str) and name in library.LOADABLE_NAMES else None
    if found is None or not issubclass(found, VideoHubMixin):
        raise ValueError(
            f"`folder` must hold a pipeline of {LIBRARY}, but the pipeline in '{folder}' is a {name}."
            " Push it with its own library."
        )
    return found


CARD_TEXT = """
# {title}

{description}

## Use

```bash
pip install diffusers-video
```

```python
from diffusers_video import {class_name}, write_video

pipe = {class_name}.from_pretrained("{repo_id}")
{example}
```

After `import diffusers_video`, `diffusers.DiffusionPipeline.from_pretrained("{repo_id}")` loads the same pipeline.
"""


def write_model_card(
    folder: str | os.PathLike,
    *,
    repo_id: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    tags: Sequence[str] = (),
    description: str | None = None,
    prompt: str | None = None,
    preview: str | None = None,
) -> Path:
    """
    Write `README.md`, the model card, into the folder of a saved pipeline; a card that stands there is replaced.

    Args:
        folder (`str` or `os.PathLike`): Folder that `save_pretrained` of one of our pipelines wrote.
        repo_id (`str`, *optional*, defaults to the folder's name): What the snippet passes to `from_pretrained`.
        base_model (`str`, *optional*): Hub id of the image model that the video model was made from.
        license (`str`, *optional*): Licence identifier of the Hub, such as `"apache-2.0"`.
        datasets (`Sequence[str]`, *optional*): Hub ids of the training data.
        metrics (`Sequence[str]`, *optional*): Names of the metrics that the card reports.
        tags (`Sequence[str]`, *optional*, defaults to `()`): Tags beside `diffusers` and `diffusers_video`.
        description (`str`, *optional*): Markdown that replaces the one-sentence description.
        prompt (`str`, *optional*): Prompt of `preview`; goes with it.
        preview (`str`, *optional*): Video or GIF shown on the card: the name of a file inside `folder`.

    Returns:
        `pathlib.Path`: The card, `folder / "README.md"`.

    Raises:
        ValueError: If `folder` holds no pipeline of ours, `preview` is no file in it, or `prompt` comes without it.
    """
    folder = Path(folder)
    pipeline_class = _pipeline_class(_read_index(folder), folder)
    if preview is not None and not (folder / preview).is_file():
        raise ValueError(f"`preview` must name a file inside `folder`, but '{folder / preview}' does not exist.")
    if prompt is not None and preview is None:
        raise ValueError(f"`prompt` is the text of `preview`, but {prompt!r} came without one. Pass both or neither.")
    repo_id = repo_id or folder.resolve().name
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=pipeline_class.hub_pipeline_tag,
        base_model=base_model,
        license=license,
        datasets=list(datasets) if datasets else None,
        metrics=list(metrics) if metrics else None,
        tags=list(dict.fromkeys(["diffusers", LIBRARY, *tags])),
        widget=[{"text": prompt or "", "output": {"url": preview}}] if preview else None,
    )
    text = CARD_TEXT.format(
        title=repo_id.split("/")[-1],
        description=description or _default_description(pipeline_class.__name__, base_model, preview),
        class_name=pipeline_class.__name__,
        repo_id=repo_id,
        example=pipeline_class.hub_example,
    )
    path = folder / "README.md"
    partial = path.with_name(".README.md.partial")
    try:
        ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _default_description(class_name: str, base_model: str | None, preview: str | None) -> str:
    origin = f", made from the image model [{base_model}](https://huggingface.co/{base_model})" if base_model else ""
    image = f"\n\n![preview]({preview})" if preview else ""
    return f"A `{class_name}` of {LIBRARY}{origin}.{image}"


def add_evaluation_results(
    folder: str | os.PathLike, results: Sequence[EvalResult], *, repo_id: str | None = None
) -> Path:
    """
    Write scores into the model card of a folder, in the Hub's evaluation format (`model-index`).

    Args:
        folder (`str` or `os.PathLike`): Folder with the card, `README.md`; if it has none but a saved pipeline of
            ours, the card is written first.
        results (`Sequence[EvalResult]`): Scores, such as [`~metrics.results.VideoEvaluation`] makes them by
            `card_results`. Those that the card has of the same data set, metric and configuration are replaced.
        repo_id (`str`, *optional*, defaults to the folder's name): What the card calls the model, if it says nothing.

    Returns:
        `pathlib.Path`: The card.

    Raises:
        ValueError: If there are no results, or neither a card nor a pipeline of ours in `folder`.
    """
    folder = Path(folder)
    if not results:
        raise ValueError("`results` must hold at least one score, but is empty.")
    path = folder / "README.md"
    if not path.is_file():
        write_model_card(folder, repo_id=repo_id)
    card = ModelCard.load(path)
    replaced = {_identify_result(result) for result in results}
    kept = [result for result in card.data.eval_results or () if _identify_result(result) not in replaced]
    card.data.eval_results = [*kept, *results]
    card.data.model_name = card.data.model_name or repo_id or folder.resolve().name
    partial = path.with_name(".README.md.partial")
    try:
        card.save(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _identify_result(result: EvalResult) -> tuple[str | None, ...]:
    return (result.task_type, result.dataset_type, result.metric_type, result.metric_name, result.metric_config)


def self_contained_files(folder: str | os.PathLike) -> dict[str, str]:
    """
    The files that let `DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` load a pipeline of ours in a
    process that never imported `diffusers_video` (which must be installed there).

    Args:
        folder (`str` or `os.PathLike`): Folder that `save_pretrained` of one of our pipelines wrote.

    Returns:
        `dict[str, str]`: Text by path relative to `folder`: `pipeline.py`, one file per component of ours, and the
        `model_index.json` that names them.

    Raises:
        ValueError: If `folder` holds no pipeline of ours.
    """
    folder = Path(folder)
    index = _read_index(folder)
    class_name = _pipeline_class(index, folder).__name__
    files = {"pipeline.py": f"from {LIBRARY} import {class_name}  # noqa: F401\n"}
    index["_class_name"] = ["pipeline", class_name]
    ours = {name: value[1] for name, value in index.items() if isinstance(value, list) and value[0] == LIBRARY}
    # diffusers caches these files under one name, so each holds the classes of all components.
    shim = f"from {LIBRARY} import {', '.join(sorted(set(ours.values())))}  # noqa: F401\n"
    for name, component_class in ours.items():
        files[f"{name}/{SHIM_MODULE}.py"] = shim
        index[name] = [SHIM_MODULE, component_class]
    files["model_index.json"] = json.dumps(index, indent=2) + "\n"
    return files


def push_pipeline_to_hub(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
    subfolder: str | None = None,
    self_contained: bool = False,
    overwrite_card: bool = False,
) -> str:
    """
    Upload the folder of a saved pipeline to the Hub in one commit; the folder itself is not changed.

    Args:
        folder (`str` or `os.PathLike`): Folder that `save_pretrained` of one of our pipelines wrote.
        repo_id (`str`): Repository, `"user/name"`, or `"name"` in the token's own account; made when missing.
        commit_message (`str`, *optional*, defaults to `"Upload <pipeline class>"`): Message of the commit.
        private (`bool`, *optional*): Whether a new repository is private; `None` takes the account's default.
        token (`str` or `bool`, *optional*): Hub token; `None` takes the one stored by `hf auth login`.
        create_pr (`bool`, *optional*, defaults to `False`): Open a pull request instead of committing to `main`.
        subfolder (`str`, *optional*): Folder of the repository to upload into; no card is uploaded then.
        self_contained (`bool`, *optional*, defaults to `False`): Add one-line Python files, so that
            `DiffusionPipeline.from_pretrained(repo_id, trust_remote_code=True)` works where `diffusers_video` is
            installed but was not imported. `DiffusionPipeline` then always asks for the flag, and `AutoModel` does
            not load components of ours from such a repository; our own classes load from it without the flag.
        overwrite_card (`bool`, *optional*, defaults to `False`): Replace a card that stands on the Hub already.

    Returns:
        `str`: Address of the commit (a `huggingface_hub.CommitInfo`).

    Raises:
        ValueError: If `folder` holds no pipeline of ours, or `repo_id` is no valid name (nothing is sent then).
    """
    folder = Path(folder)
    class_name = _pipeline_class(_read_index(folder), folder).__name__
    validate_repo_id(repo_id)
    texts = self_contained_files(folder) if self_contained else {}

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if subfolder is None and (overwrite_card or not api.file_exists(repo_id, "README.md")):
        texts["README.md"] = _card_for(folder, repo_id)
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    operations = [
        CommitOperationAdd(path_in_repo=prefix + name, path_or_fileobj=path)
        for name, path in _files_in(folder)
        if name != "README.md" and name not in texts
    ]
    operations += [CommitOperationAdd(prefix + name, text.encode()) for name, text in texts.items()]
    message = commit_message or f"Upload {class_name}"
    return api.create_commit(repo_id, operations, commit_message=message, create_pr=create_pr)


def _card_for(folder: Path, repo_id: str) -> str:
    """The folder's card, with `repo_id` where a card of ours says the folder's name; a new one where there is none."""
    if (folder / "README.md").is_file():
        card = (folder / "README.md").read_text(encoding="utf-8")
        return card.replace(f'from_pretrained("{folder.resolve().name}")', f'from_pretrained("{repo_id}")')
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(folder / "model_index.json", scratch)
        return write_model_card(scratch, repo_id=repo_id).read_text(encoding="utf-8")


def _files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """List the files to upload: all but hidden ones, compiled ones and the checkpoints of a training run."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_checkpoint = fnmatch(relative.parts[0], "checkpoint-[0-9]*")
        is_hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
        if path.is_file() and not (is_checkpoint or is_hidden):
            yield relative.as_posix(), path


@contextlib.contextmanager
def complete_or_absent(target: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes `target` on success; a `target` with content is written in place."""
    if target.is_dir() and any(target.iterdir()):
        yield target
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        scratch.mkdir()
        yield scratch
        if target.is_dir():
            for child in scratch.iterdir():
                os.replace(child, target / child.name)
        else:
            os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class VideoHubMixin:
    """
    Saving and pushing for our pipelines; stands before [`~diffusers.DiffusionPipeline`] in a pipeline's bases.

    A saved folder gets our model card (diffusers' own would name diffusers as the library), and a new folder appears
    complete or not at all.

    Attributes:
        hub_pipeline_tag (`str`): Task of the class on the Hub.
        hub_example (`str`): Python lines of the card's snippet; they follow `pipe = ...` and know `write_video`.
        base_model (`str`, *optional*): Hub id of the image model, for the card; `from_image_model` sets it.
    """

    hub_pipeline_tag: ClassVar[str] = "text-to-video"
    hub_example: ClassVar[str] = (
        'output = pipe("a red circle moves right")\nwrite_video(output.frames[0], "video.mp4", fps=output.fps)'
    )
    base_model: str | None = None

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        use_flashpack: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Save the pipeline to a folder, with a model card unless one stands there, and optionally push it.

        Args:
            save_directory (`str` or `os.PathLike`): Folder to write; made when missing. A new folder is written
                under another name and renamed when complete.
            safe_serialization (`bool`, *optional*, defaults to `True`): safetensors instead of pickle.
            variant (`str`, *optional*): Infix of the weight files, such as `"fp16"`.
            max_shard_size (`int` or `str`, *optional*): Largest weight file, in bytes or as `"5GB"`.
            push_to_hub (`bool`, *optional*, defaults to `False`): Push the saved folder by
                [`push_pipeline_to_hub`]; `repo_id` is then the folder's name unless given.
            use_flashpack (`bool`, *optional*, defaults to `False`): Write FlashPack weights.
            kwargs: `repo_id` and the options of [`push_pipeline_to_hub`]; only with `push_to_hub=True`.

        Raises:
            NotADirectoryError: If `save_directory` is a file.
            TypeError: If an option is none of a push.
            ValueError: If options of a push come without `push_to_hub=True`, or `repo_id` is no valid name.
        """
        target = Path(save_directory).absolute()
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(f"`save_directory` must be a folder, but '{target}' is a file. Name another one.")
        if kwargs and not push_to_hub:
            raise ValueError(
                f"`{'`, `'.join(sorted(kwargs))}` has an effect only with `push_to_hub=True`, which was not passed."
            )
        repo_id = kwargs.pop("repo_id", None) or target.name
        if unknown := sorted(set(kwargs) - set(inspect.signature(push_pipeline_to_hub).parameters)):
            raise TypeError(f"`{unknown[0]}` is no option of a push. See `diffusers_video.push_pipeline_to_hub`.")
        if push_to_hub:
            validate_repo_id(repo_id)
        with complete_or_absent(target) as folder:
            super().save_pretrained(
                folder,
                safe_serialization=safe_serialization,
                variant=variant,
                max_shard_size=max_shard_size,
                use_flashpack=use_flashpack,
            )
            if not (folder / "README.md").exists():
                write_model_card(folder, repo_id=target.name, base_model=self.base_model)
        if push_to_hub:
            push_pipeline_to_hub(target, repo_id, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
        *,
        self_contained: bool = False,
        overwrite_card: bool = False,
    ) -> str:
        """
        Save the pipeline to a temporary folder and upload it to the Hub; see [`push_pipeline_to_hub`].

        Args:
            repo_id (`str`): Repository, `"user/name"`, or `"name"` in the token's own account; made when missing.
            commit_message (`str`, *optional*, defaults to `"Upload <pipeline class>"`): Message of the commit.
            private (`bool`, *optional*): Whether a new repository is private.
            token (`str` or `bool`, *optional*): Hub token; `None` takes the stored one.
            create_pr (`bool`, *optional*, defaults to `False`): Open a pull request instead of committing.
            safe_serialization (`bool`, *optional*, defaults to `True`): safetensors instead of pickle.
            variant (`str`, *optional*): Infix of the weight files, such as `"fp16"`.
            subfolder (`str`, *optional*): Folder of the repository to upload into.
            self_contained (`bool`, *optional*, defaults to `False`): Add the files for `trust_remote_code=True`.
            overwrite_card (`bool`, *optional*, defaults to `False`): Replace a card that stands on the Hub already.

        Returns:
            `str`: Address of the commit.

        Raises:
            ValueError: If `repo_id` is no valid name (nothing is saved or sent then).
        """
        validate_repo_id(repo_id)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / repo_id.split("/")[-1]
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)
            return push_pipeline_to_hub(
                folder,
                repo_id,
                commit_message=commit_message,
                private=private,
                token=token,
                create_pr=create_pr,
                subfolder=subfolder,
                self_contained=self_contained,
                overwrite_card=overwrite_card,
            )

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        # Every load of model_index.json passes here, so repositories that name our modules by their full path, and
        # self-contained ones, load through our classes without `trust_remote_code`.
        return with_our_library(super()._dict_from_json_file(json_file))
