"""Who a bundle comes from: fingerprints, signatures, and what a device asks of every bundle."""

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from support.machines.commands import Ended

from hybrid_edge.runtime import Classifier, trust
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.commands import bench, compare, doctor, infer, score
from hybrid_edge.runtime.errors import TrustError, UsageError
from hybrid_edge.runtime.manifest import MANIFEST
from hybrid_edge.runtime.trust import ANYONE, SETTING, SIGNATURE, Trust, fingerprint, sign_bundle


class Keys(NamedTuple):
    private: Path
    public: Path


@pytest.fixture(scope="module")
def make_keys() -> Callable[[Path], Keys]:
    pytest.importorskip("model_signing.signing", reason="needs the extra sign", exc_type=ImportError)
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    def make(folder: Path) -> Keys:
        folder.mkdir(exist_ok=True)
        private = ec.generate_private_key(ec.SECP256R1())
        keys = Keys(folder / "key.pem", folder / "key.pub")
        keys.private.write_bytes(
            private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        )
        keys.public.write_bytes(
            private.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        )
        return keys

    return make


@pytest.fixture
def keys(make_keys: Callable[[Path], Keys], tmp_path: Path) -> Keys:
    return make_keys(tmp_path / "keys")


@pytest.fixture
def signed(folder: Path, keys: Keys) -> Path:
    sign(folder, keys)
    return folder


def sign(folder: Path, keys: Keys) -> None:
    sign_bundle(folder, str(keys.private), Bundle.open(folder).manifest.files)


def test_a_fingerprint_is_the_sha256_of_the_manifest_and_the_same_of_folder_and_tar(folder: Path, packed: Path) -> None:
    found = fingerprint((folder / MANIFEST).read_bytes())
    assert Bundle.open(folder).fingerprint == found == Bundle.open(packed).fingerprint
    assert Bundle.open(packed, Trust((found,))).fingerprint == found


@pytest.mark.parametrize("prefix", ["", "sha256:", "  SHA256:"])
def test_an_expected_fingerprint_is_read_as_it_is_printed(prefix: str) -> None:
    assert Trust.from_flags([prefix + "ab" * 32], None).fingerprints == ("ab" * 32,)


@pytest.mark.parametrize("text", ["", "ab" * 31, "xy" * 32, "md5:" + "ab" * 32, "a" * 10**6])
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="64 hexadecimal digits") as refused:
        Trust.from_flags([text], None)
    assert len(str(refused.value)) < 300


def test_a_bundle_of_another_fingerprint_is_not_opened(folder: Path) -> None:
    with pytest.raises(TrustError, match="fingerprint"):
        Bundle.open(folder, Trust(("ab" * 32,)))
    with pytest.raises(TrustError, match="fingerprint"):
        Classifier.load(Bundle.open(folder).root, trust=Trust(("ab" * 32,)))


def test_a_signed_bundle_is_opened_by_who_knows_the_public_key(signed: Path, keys: Keys) -> None:
    assert Bundle.open(signed, Trust(signer=str(keys.public))).root == signed


def test_the_signature_is_one_that_the_library_s_own_command_verifies(signed: Path, keys: Keys) -> None:
    command: list[str | Path] = [sys.executable, "-m", "model_signing", "verify", "key", signed, "--signature"]
    command += [signed / SIGNATURE, "--public_key", keys.public]
    done = subprocess.run([str(item) for item in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_that_the_manifest_does_not_name_are_not_signed(folder: Path, keys: Keys) -> None:
    (folder / "notes.txt").write_text("mine")
    sign(folder, keys)
    (folder / "notes.txt").unlink()
    assert Bundle.open(folder, Trust(signer=str(keys.public)))


def remove(signature: Path) -> None:
    signature.unlink()


def empty(signature: Path) -> None:
    signature.write_bytes(b"")


def truncate(signature: Path) -> None:
    signature.write_bytes(signature.read_bytes()[:-40])


def link(signature: Path) -> None:
    shutil.move(signature, signature.with_name("elsewhere"))
    signature.symlink_to(signature.with_name("elsewhere"))


def forge(signature: Path) -> None:
    """Change the signed statement, and leave the signature of the old one."""
    content = json.loads(signature.read_text())
    payload = content["dsseEnvelope"]["payload"]
    content["dsseEnvelope"]["payload"] = payload[:-8] + payload[-9:-1]
    signature.write_text(json.dumps(content))


def nest(signature: Path) -> None:
    signature.write_text("[" * 10**6)


@pytest.mark.parametrize("damage", [remove, empty, truncate, link, forge, nest])
def test_a_signature_that_is_missing_or_damaged_is_refused(
    signed: Path, keys: Keys, damage: Callable[[Path], None]
) -> None:
    damage(signed / SIGNATURE)
    with pytest.raises(TrustError, match=r"expected a (bundle that is signed|signature by)"):
        Bundle.open(signed, Trust(signer=str(keys.public)))


def test_another_s_signature_is_refused(signed: Path, make_keys: Callable[[Path], Keys], tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="signature by"):
        Bundle.open(signed, Trust(signer=str(make_keys(tmp_path / "others").public)))


def test_a_signed_bundle_whose_files_were_changed_is_refused(signed: Path, keys: Keys) -> None:
    for path in [*signed.glob("golden/*"), *signed.glob("artifacts/*"), signed / MANIFEST]:
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(TrustError):
            Bundle.open(signed, Trust(signer=str(keys.public)))
        path.write_bytes(before)


def test_the_manifest_that_was_read_must_be_the_one_that_was_signed(signed: Path, keys: Keys) -> None:
    read_before_it_was_replaced = (signed / MANIFEST).read_bytes() + b" "
    with pytest.raises(TrustError, match=r"another manifest\.json than the one that was read"):
        Trust(signer=str(keys.public)).check(signed, read_before_it_was_replaced)


def test_a_device_asks_for_its_own_key_by_default(
    signed: Path, keys: Keys, make_keys: Callable[[Path], Keys], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = make_keys(tmp_path / "others")
    monkeypatch.setattr(trust, "DEVICE_KEY", others.public)
    with pytest.raises(TrustError):
        Bundle.open(signed)
    monkeypatch.setenv(SETTING, str(keys.public))
    assert Bundle.open(signed)
    monkeypatch.setenv(SETTING, str(others.public))
    with pytest.raises(TrustError):
        Bundle.open(signed)
    assert Bundle.open(signed, Trust(signer=str(keys.public)))
    assert Bundle.open(signed, ANYONE)


def test_a_tar_carries_its_signature(packed: Path, folder: Path, keys: Keys) -> None:
    with pytest.raises(TrustError, match=r"no model\.sig"):
        Bundle.open(packed, Trust(signer=str(keys.public)))
    sign(folder, keys)
    with tarfile.open(packed, "a") as tar:
        tar.add(folder / SIGNATURE, SIGNATURE)
    assert Bundle.open(packed, Trust(signer=str(keys.public)))


@pytest.mark.parametrize("content", [b"", b"not a key", b"-----BEGIN PUBLIC KEY-----\n", None])
def test_a_key_that_can_t_be_used_is_wrong_usage(signed: Path, tmp_path: Path, content: bytes | None) -> None:
    key = tmp_path / "other.pub"
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(UsageError, match="expected a key in PEM"):
        Bundle.open(signed, Trust(signer=str(key)))
    with pytest.raises(UsageError, match="expected a key in PEM"):
        trust.check_key(str(key))


def test_without_the_library_a_signature_is_not_taken_on_trust(
    signed: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing.verifying", None)
    with pytest.raises(UsageError, match=r"hybrid-edge\[sign\]"):
        Bundle.open(signed, Trust(signer=str(keys.public)))


def command(name: str, folder: Path, photos: Path) -> tuple[Callable[[], None], list[object]]:
    other = shutil.copytree(folder, folder.with_name("other"))
    return {
        "hybrid-infer": (infer.main, [photos, "--bundle", folder]),
        "hybrid-bench": (bench.main, [folder]),
        "hybrid-compare": (compare.main, [photos, "--bundle", folder, "--with", other]),
        "hybrid-doctor": (doctor.main, ["--bundle", folder]),
        "hybrid-score": (score.main, [photos, "--bundle", folder, "--out", folder.with_name("scores")]),
    }[name]


@pytest.mark.parametrize("name", ["hybrid-infer", "hybrid-bench", "hybrid-compare", "hybrid-score", "hybrid-doctor"])
def test_every_command_refuses_a_bundle_that_is_not_the_one_expected(
    name: str, folder: Path, photos: Path, call: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, arguments = command(name, folder, photos)
    refused = call(name, main, *arguments, "--expect-sha256", "ab" * 32)
    assert refused.code == 1
    assert "expected a bundle with the fingerprint abab" in (refused.out if name == "hybrid-doctor" else refused.err)
    refused = call(name, main, *arguments, "--require-signature", tmp_path / "absent.pub")
    assert refused.code == (1 if name == "hybrid-doctor" else 2)  # whose answer that is
