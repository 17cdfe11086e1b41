import subprocess
import sys

import pytest
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.convert.convert import convert
from nnunetv2_mstkd.datasets.phantom.phantom import write_phantom


@pytest.mark.slow
def test_nnunet_plans_and_preprocesses_what_convert_writes(tmp_path, nnunet):
    """With nnU-Net's own integrity check, on incomplete cases in .nii (.nii.gz: end_to_end/integration)."""
    write_phantom(tmp_path / "src", cases=3, shape=(32, 32, 32), seed=4, missing=0.3)
    for path in tmp_path.glob("src/*/*.nii.gz"):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path).removesuffix(".gz"))
        path.unlink()
    conversion = convert(tmp_path / "src", 3, "P", source_format="brats2023")
    assert conversion.availability.incomplete
    entry = "from nnunetv2.experiment_planning import plan_and_preprocess_entrypoints as entry"
    code = f"{entry}; entry.plan_and_preprocess_entry()"
    argv = ["-d", "3", "--verify_dataset_integrity", "-np", "1", "-npfp", "1", "-c", "3d_fullres"]
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "your dataset is most likely OK" in done.stdout
    stored = nnunet.preprocessed / "Dataset003_P" / "nnUNetPlans_3d_fullres"
    names = {p.name.removesuffix("_seg.b2nd") for p in stored.glob("*_seg.b2nd")}
    assert names == set(conversion.patients)
    assert conversion.splits_file.is_file()
