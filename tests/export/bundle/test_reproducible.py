import os
from pathlib import Path

import pytest
from support.machines.commands import command
from support.models.standin import write_crops

from hybrid_edge.export.bundle.bundle_writer import provenance
from hybrid_edge.runtime.errors import UsageError


def exported(model: Path, photos: Path, calibration: Path, out: Path, **environment: str) -> dict[str, bytes]:
    """Every file that ``hybrid-export --pack`` writes in a process of its own, and the tar, by their names."""
    options = ("--fp32", "--int8", "--pack", "--images", photos, "--calib", calibration, "--out", out / "bundle")
    done = command("hybrid-export", model, *options, environment=environment)
    assert done.returncode in (0, 3), done.stderr  # a variant that is refused is in neither bundle
    files = [path for path in (out / "bundle").rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in [*files, out / "bundle.tar"]}


def test_the_same_model_gives_the_same_bytes_at_another_time_and_place(
    digits_file: Path, photos: Path, tmp_path: Path
) -> None:
    given = (digits_file, photos, write_crops(tmp_path / "calibration", 40, seed=78))
    first = exported(*given, tmp_path / "one", PYTHONHASHSEED="1", TZ="Asia/Tokyo", LC_ALL="C")
    second = exported(*given, tmp_path / "another" / "place", PYTHONHASHSEED="2", TZ="UTC")
    assert {name for name in first if first[name] != second.get(name)} == set()
    assert first.keys() == second.keys()
    assert len([name for name in first if name.endswith(".onnx")]) > 1


def test_a_bundle_is_of_its_models_date_unless_the_environment_tells_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    model = tmp_path / "model.keras"
    model.touch()
    os.utime(model, (1_700_000_000.9, 1_700_000_000.9))
    assert provenance(model, "", {}).created == "2023-11-14T22:13:20+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert provenance(model, "", {}).created == "1970-01-01T00:00:00+00:00"
    for wrong in ("yesterday", "", "1" * 40):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(UsageError, match="expected seconds since 1970, found"):
            provenance(model, "", {})
