import json
import os
from pathlib import Path

import SimpleITK as sitk


class Transform:
    """Resamples without moving anything: the fixed image's grid, the moving one's labels."""

    def __init__(self, transformations_dir, registrator=None):
        self.transformations_dir, self.registrator = Path(transformations_dir), registrator

    def apply(
        self,
        target_modality_name,
        target_modality_img,
        moving_image,
        output_img_path,
        log_file_path,
        interpolator=None,
        inverse=False,
    ):
        matrices = sorted(self.transformations_dir.joinpath(target_modality_name).iterdir())
        line = {
            "target": target_modality_name,
            "matrices": [path.name for path in matrices],
            "interpolator": interpolator,
            "inverse": inverse,
            "parameters": self.registrator.transformation_params,
        }
        with Path(os.environ["FAKE_BRAINLES_LOG"]).open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        if any("bad" in path.name for path in matrices):
            raise RuntimeError("matrix\nunreadable")
        fixed, moving = sitk.ReadImage(str(target_modality_img)), sitk.ReadImage(str(moving_image))
        moved = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
        sitk.WriteImage(sitk.Cast(moved, sitk.sitkFloat32), str(output_img_path))
