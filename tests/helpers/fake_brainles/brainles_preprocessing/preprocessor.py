import json
import os
import shutil
from pathlib import Path


class _Preprocessor:
    def _run(self, **directories):
        log = Path(os.environ["FAKE_BRAINLES_LOG"])
        images = [self.center_modality, *self.moving_modalities]
        line = {
            "class": type(self).__name__,
            "centre": self.center_modality.modality_name,
            "moving": [m.modality_name for m in self.moving_modalities],
            "atlas": str(getattr(self, "atlas", None)),
            "skull_strip": self.center_modality.raw_bet_output_path is not None,
            "use_gpu": self.use_gpu,
            "reminder": os.environ["BRAINLES_PREPROCESSING_CITATION_REMINDER"],
        }
        with log.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        for image in images:
            if "bad" in str(image.input_path):
                raise RuntimeError("registration\ndiverged")
            shutil.copy(image.input_path, image.raw_bet_output_path or image.raw_skull_output_path)
        if directories["save_dir_transformations"]:
            Path(directories["save_dir_transformations"]).mkdir(parents=True)


class AtlasCentricPreprocessor(_Preprocessor):
    def __init__(
        self,
        center_modality,
        moving_modalities,
        registrator=None,
        brain_extractor=None,
        defacer=None,
        atlas_image_path="sri24",
        n4_bias_corrector=None,
        temp_folder=None,
        use_gpu=True,
        limit_cuda_visible_devices=None,
    ):
        self.center_modality, self.moving_modalities = center_modality, moving_modalities
        self.atlas, self.use_gpu = atlas_image_path, use_gpu

    def run(
        self,
        save_dir_coregistration=None,
        save_dir_atlas_registration=None,
        save_dir_atlas_correction=None,
        save_dir_n4_bias_correction=None,
        save_dir_brain_extraction=None,
        save_dir_defacing=None,
        save_dir_transformations=None,
        log_file=None,
    ):
        self._run(save_dir_transformations=save_dir_transformations)


class NativeSpacePreprocessor(_Preprocessor):
    def __init__(
        self,
        center_modality,
        moving_modalities,
        registrator=None,
        brain_extractor=None,
        defacer=None,
        n4_bias_corrector=None,
        temp_folder=None,
        use_gpu=True,
        limit_cuda_visible_devices=None,
    ):
        self.center_modality, self.moving_modalities = center_modality, moving_modalities
        self.use_gpu = use_gpu

    def run(
        self,
        save_dir_coregistration=None,
        save_dir_n4_bias_correction=None,
        save_dir_brain_extraction=None,
        save_dir_defacing=None,
        save_dir_transformations=None,
        log_file=None,
    ):
        self._run(save_dir_transformations=save_dir_transformations)
