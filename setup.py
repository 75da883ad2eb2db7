"""Build script: the top-level folders `pipelines/` and `training/` become subpackages of `diffusers_video`."""

from setuptools import find_packages, setup


MAPPED = {"pipelines": "diffusers_video.pipelines", "training": "diffusers_video.training"}

packages = find_packages(include=["diffusers_video*"])
for folder, name in MAPPED.items():
    packages += [name, *(f"{name}.{sub}" for sub in find_packages(folder))]

setup(
    packages=packages,
    package_dir={"diffusers_video": "diffusers_video", **{name: folder for folder, name in MAPPED.items()}},
)
