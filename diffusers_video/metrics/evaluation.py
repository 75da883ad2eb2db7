"""Measure a set of videos against another one, or by itself, by a protocol that others can repeat."""

# Shapes: N clips, K frames of a clip, D features.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .clip_measures import MEASURES, clip_measures
from .clip_sources import ClipSource
from .evaluation_scores import score_distance, score_inception, score_values
from .evaluation_settings import (
    CONFIDENCE,
    FRECHET,
    INCEPTION,
    KERNEL,
    LPIPS,
    OF_CLIP,
    OF_FRAMES,
    PAIRED,
    ROLES,
    EvaluationSettings,
)
from .feature_networks import FeatureNetwork
from .feature_sets import OF_FEATURES, FeatureSet, ProgressCallback, extract_features
from .frame_networks import clip_frames
from .paired_clips import PAIRED_MEASURES, PairedClips, paired_measures
from .protocols import EvaluationProtocol
from .results import Score, VideoEvaluation


if TYPE_CHECKING:
    from accelerate import Accelerator

    from .clip_scores import ClipEmbedder


DISTANCES = (*FRECHET, *KERNEL, *OF_FRAMES)
OF_REFERENCE = (*MEASURES, *OF_CLIP)  # of which the reference is told, too


def evaluate_videos(
    generated: ClipSource | FeatureSet,
    reference: ClipSource | FeatureSet | None,
    protocol: EvaluationProtocol,
    *,
    network: FeatureNetwork | None = None,
    frame_network: FeatureNetwork | None = None,
    classifier: FeatureNetwork | None = None,
    clip: ClipEmbedder | None = None,
    lpips: FeatureNetwork | None = None,
    settings: EvaluationSettings | None = None,
    batch_size: int = 8,
    accelerator: Accelerator | None = None,
    progress: ProgressCallback | None = None,
) -> VideoEvaluation:
    """
    Score generated videos. Clips are read one batch at a time and dropped; only their features stay.

    Args:
        generated ([`~metrics.clip_sources.ClipSource`] or [`FeatureSet`]): The generated clips: a
            [`~metrics.clip_sources.FolderClips`], [`~metrics.clip_sources.PipelineClips`] or
            [`~metrics.clip_sources.MemoryClips`], or what was saved of them.
        reference ([`~metrics.clip_sources.ClipSource`] or [`FeatureSet`], *optional*): What they are compared with;
            needed for distances and for measures of pairs, and told of by measures of clips.
        protocol ([`EvaluationProtocol`]): What the sources were made with.
        network ([`FeatureNetwork`], *optional*): Whose outputs distances compare.
        frame_network ([`FeatureNetwork`], *optional*): Likewise for distances of frames; one of images.
        classifier ([`FeatureNetwork`], *optional*): Whose classes the Inception Score is of.
        clip ([`ClipEmbedder`], *optional*): Which CLIP.
        lpips ([`FeatureNetwork`], *optional*): From [`lpips_network`] or [`load_lpips`].
        settings ([`EvaluationSettings`], *optional*): Which metrics, and how.
        batch_size (`int`, *optional*, defaults to 8): Clips at once, on each process.
        accelerator (`Accelerator`, *optional*): Shares the clips between its processes; all of them must call this.
        progress (`Callable[[int, int], None]`, *optional*): Called with how many clips are done, and of how many, for
            one set after the other.

    Returns:
        [`VideoEvaluation`]: The same on every process.

    Raises:
        ValueError: If something is missing for a metric, sets do not fit each other or are too small, a clip cannot
            be read, or its features are not finite; the message names the clip or the rule.
    """
    settings = settings or EvaluationSettings()
    given = {"network": network, "frame_network": frame_network, "classifier": classifier, "clip": clip}
    given["lpips"] = lpips
    _check_request(settings, generated, reference, given)
    _check_rates(generated, reference, settings)
    by_role = _choose_networks(settings, given)
    options = {"batch_size": batch_size, "accelerator": accelerator, "progress": progress}
    own, other = _features_of_sets(generated, reference, by_role, protocol, settings, options)
    for role in ("network", "frame_network"):
        if role in by_role:
            _check_sets(own[role], other[role], by_role[role], settings)
    scores, warnings = [], []
    for name in settings.metrics:
        role = ROLES[name]
        if name in DISTANCES:
            score, found = score_distance(name, own[role], other[role], protocol, settings)
            warnings += found
        elif name in INCEPTION:
            score = score_inception(own[role], settings)
        else:
            score = _score_clips(name, (generated, reference), (own[role], other.get(role)), clip, settings)
        scores.append(score)
    sets = {"generated": own, "reference": other}
    firsts = {name: next(iter(features.values())) for name, features in sets.items() if features}
    if settings.needs(PAIRED) and not other:
        record = {**firsts["generated"].record, "source": reference.record}
        firsts["reference"] = replace(firsts["generated"], record=record)
    return _report(scores, warnings, protocol, firsts, by_role)


def _choose_networks(settings: EvaluationSettings, given: Mapping[str, Any]) -> dict[str, FeatureNetwork]:
    """Networks that the metrics need, by role."""
    made = {
        "measures": clip_measures,
        "pairs": lambda: paired_measures([name for name in PAIRED_MEASURES if name in settings.metrics]),
        "clip": lambda: clip_frames(given["clip"]),
    }
    return {role: made[role]() if role in made else given[role] for role in settings.roles}


def _features_of_sets(
    generated: ClipSource | FeatureSet,
    reference: ClipSource | FeatureSet | None,
    by_role: Mapping[str, FeatureNetwork],
    protocol: EvaluationProtocol,
    settings: EvaluationSettings,
    options: Mapping[str, Any],
) -> tuple[dict[str, FeatureSet], dict[str, FeatureSet]]:
    """Features of both sets by the role of their network; of pairs among those of the generated one."""
    of_pairs = {role: network for role, network in by_role.items() if role in ("pairs", "lpips")}
    of_one = {role: network for role, network in by_role.items() if role not in of_pairs}
    pairs = PairedClips(generated, reference) if of_pairs else None  # before anything takes long
    own = _features_of(generated, of_one, protocol, settings, options)
    other = {}
    if reference is not None:
        without = ("classifier",) if not isinstance(reference, FeatureSet) else ("classifier", "measures", "clip")
        roles = {role: network for role, network in of_one.items() if role not in without}
        other = _features_of(reference, roles, protocol, settings, options)
    if pairs is not None:
        own |= _features_of(pairs, of_pairs, protocol, settings, options)
    return own, other


def _features_of(
    source: ClipSource | FeatureSet,
    networks: Mapping[str, FeatureNetwork],
    protocol: EvaluationProtocol,
    settings: EvaluationSettings,
    options: Mapping[str, Any],
) -> dict[str, FeatureSet]:
    """Features of a set by the role of their network; all networks run on a clip while it is in memory."""
    if not networks:
        return {}
    if not isinstance(source, FeatureSet):
        keeps = settings.num_resamples > 0 or not set(settings.metrics) <= {*FRECHET, *OF_FRAMES}
        found = extract_features(source, list(networks.values()), protocol, keeps_features=keeps, **options)
        return dict(zip(networks, found, strict=True))
    if len(networks) > 1:
        raise ValueError(
            f"`metrics` must be of one network for saved features, but {list(settings.metrics)} need"
            f" {len(networks)}. Measure them one after the other."
        )
    for network in networks.values():
        _check_record(source.record, protocol, network)
    return dict.fromkeys(networks, source)


def _check_request(
    settings: EvaluationSettings,
    generated: ClipSource | FeatureSet,
    reference: ClipSource | FeatureSet | None,
    given: Mapping[str, Any],
) -> None:
    needed = [role for role in settings.roles if role not in ("measures", "pairs")]
    missing = [role for role in needed if given[role] is None and role != "classifier"]
    if reference is None and settings.needs((*DISTANCES, *PAIRED)):
        missing.insert(0, "reference")
    if missing:
        raise ValueError(f"`{missing[0]}` must be given for {list(settings.metrics)}. Pass it, or measure less.")
    _check_kinds(settings, given)
    for role, value in given.items():
        if value is not None and role not in needed:
            raise ValueError(f"`{role}` has no effect on {list(settings.metrics)}. Leave it out, or measure more.")
    if reference is not None and not settings.needs((*DISTANCES, *PAIRED, *OF_REFERENCE)):
        raise ValueError(f"`reference` has no effect on {list(settings.metrics)}. Leave it out, or measure more.")
    if settings.needs(("clip_similarity",)):
        captions = _captions_of(generated) or [""]
        if not all(captions):
            where = "has none" if not any(captions) else f"lacks that of {generated.name_of(captions.index(''))}"
            raise ValueError(
                f"`generated` must have a caption for each clip for 'clip_similarity', but {where}. Write them to"
                " metadata.jsonl, or to text files beside the videos."
            )


def _check_kinds(settings: EvaluationSettings, given: Mapping[str, FeatureNetwork | None]) -> None:
    network, frame_network, classifier = (given[role] for role in ("network", "frame_network", "classifier"))
    if settings.needs(("fvd", "kvd")) and not network.is_fvd:
        raise ValueError(
            f"`network` must be I3D with the weights of FVD for {list(settings.metrics)}, but is {network.name!r}."
            " Load it with `load_i3d`, or measure 'frechet_distance' and 'kernel_distance', which say what they are"
            " of."
        )
    if settings.needs(("fid",)) and not frame_network.is_fid:
        raise ValueError(
            f"`frame_network` must be Inception with the weights of FID for 'fid', but is {frame_network.name!r}. Load"
            " it with `load_inception`, or measure 'frame_frechet_distance', which says what it is of."
        )
    if settings.needs(OF_FRAMES) and not frame_network.is_per_frame:
        raise ValueError(
            f"`frame_network` must be a network of images for {list(settings.metrics)}, but {frame_network.name!r} is"
            " one of clips. Say `is_per_frame=True` if it takes images."
        )
    if settings.needs(INCEPTION) and (classifier is None or not classifier.is_classifier):
        raise ValueError(
            "`classifier` must be a network that returns logits of classes for 'inception_score', but is"
            f" {classifier and classifier.name!r}. Load C3D with `load_c3d`, or say `is_classifier=True`."
        )


def _captions_of(source: ClipSource | FeatureSet | None) -> Sequence[str] | None:
    return getattr(source, "captions", None)  # saved features have none


def _check_sets(own: FeatureSet, other: FeatureSet, network: FeatureNetwork, settings: EvaluationSettings) -> None:
    for argument, features in (("generated", own), ("reference", other)):
        count, size = features.statistics.num_samples, features.statistics.num_features
        unit = "frames" if network.is_per_frame else "clips"
        is_frechet = settings.needs(OF_FRAMES if network.is_per_frame else FRECHET)
        if is_frechet and count <= size and not settings.allows_small_sets:
            raise ValueError(
                f"`{argument}` must have more {unit} than the {size} features of {network.name!r} for a Frechet"
                f" distance, but has {count}. Take more clips, measure the kernel distance, which has no such bias, or"
                " allow small sets (`allows_small_sets`) and compare only with scores of as many clips."
            )
        if features.features is None and (settings.needs(KERNEL) or settings.num_resamples):
            raise ValueError(
                f"`{argument}` must hold the features themselves for kernel distances and intervals, but the saved set"
                " holds their mean and covariance. Save it again with them, or measure the Frechet distance with"
                " `num_resamples=0`."
            )


def _check_rates(
    generated: ClipSource | FeatureSet, reference: ClipSource | FeatureSet | None, settings: EvaluationSettings
) -> None:
    if reference is None or not settings.needs((*FRECHET, *KERNEL, *PAIRED)):
        return
    rates = [
        set(source.record.get("rates", []) if isinstance(source, FeatureSet) else map(str, source.rates))
        for source in (generated, reference)
    ]
    if all(rates) and rates[0] != rates[1] and not settings.allows_other_fps:
        raise ValueError(
            f"`generated` and `reference` must have one rate, but have {sorted(rates[0])} and {sorted(rates[1])}"
            " frames per second. Read both at one (`fps` of the protocol), or allow it (`allows_other_fps`), which"
            " measures how fast things move as well."
        )


def _check_record(record: Mapping[str, Any], protocol: EvaluationProtocol, network: FeatureNetwork) -> None:
    then, now = record.get("protocol", {}), protocol.describe()
    pairs = {name: (then.get(name), now[name]) for name in OF_FEATURES}
    pairs["network"] = (record.get("network"), network.describe())
    for name, (saved, asked) in pairs.items():
        if saved != asked:
            raise ValueError(
                f"A saved set must be measured as asked for now, but its `{name}` was {saved}, and now is {asked}."
                " Measure it again, or change the protocol."
            )


def _score_clips(
    name: str,
    sources: tuple[ClipSource | FeatureSet, ClipSource | FeatureSet | None],
    sets: tuple[FeatureSet, FeatureSet | None],
    clip: ClipEmbedder | None,
    settings: EvaluationSettings,
) -> Score:
    """A mean over clips, beside that of the reference."""
    values = [
        None if features is None else _values_of(name, source, features.features, clip, settings)
        for source, features in zip(sources, sets, strict=True)
    ]
    details: dict[str, Any] = {}
    if name in OF_CLIP:
        details["num_frames"] = sets[0].features.shape[1]
    if name in PAIRED:
        details |= {"pairs": "videos of one name, the same frames", "averaging": "over frames of clips, then clips"}
    return score_values(name, *values, settings, details)


def _values_of(
    name: str,
    source: ClipSource | FeatureSet,
    features: Tensor,
    clip: ClipEmbedder | None,
    settings: EvaluationSettings,
) -> Tensor | None:
    """The measure of each clip; `None` if what it should show is not known."""
    if name == "clip_similarity":
        captions = _captions_of(source)
        if captions is None or not all(captions):
            return None
        texts = sorted(set(captions))
        texts_ND = clip.embed_texts(texts)[[texts.index(caption) for caption in captions]]
        return (features.double() * texts_ND[:, None]).sum(2).mean(1)
    if name == "clip_frame_consistency":
        if features.shape[1] < 2:
            raise ValueError("`num_frames` of the protocol must be at least 2 for 'clip_frame_consistency', but is 1.")
        return (features[:, 1:].double() * features[:, :-1].double()).sum(2).mean(1)
    if name in PAIRED_MEASURES:
        measured = [known for known in PAIRED_MEASURES if known in settings.metrics]
    else:
        measured = list(MEASURES if name in MEASURES else LPIPS)
    return features[:, measured.index(name)]


def _report(
    scores: Sequence[Score],
    warnings: Sequence[str],
    protocol: EvaluationProtocol,
    sets: Mapping[str, FeatureSet],
    networks: Mapping[str, FeatureNetwork],
) -> VideoEvaluation:
    sources = {name: features.record.get("source", {}) for name, features in sets.items()}
    rates = {rate for features in sets.values() for rate in features.record.get("rates", [])}
    repeats = [
        f"Of the {name} clips several are of one video; intervals take them for independent."
        for name, features in sets.items()
        if sources[name].get("num_videos", features.num_clips) < features.num_clips
    ]
    return VideoEvaluation(
        scores=tuple(scores),
        protocol=protocol.describe(),
        num_generated=sets["generated"].num_clips,
        num_reference=sets["reference"].num_clips if "reference" in sets else None,
        fps=rates.pop() if len(rates) == 1 else None,
        codecs={name: source.get("codecs") for name, source in sources.items()},
        generated=sources["generated"],
        reference=sources.get("reference"),
        networks={role: network.describe() for role, network in networks.items()},
        confidence=CONFIDENCE,
        warnings=(*dict.fromkeys([*warnings, *repeats]),),
    )
