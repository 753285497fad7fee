"""The store in a local folder: what goes in comes out, what is damaged is noticed, what is unused can be deleted."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gankd.errors import UserError
from gankd.paths import file_digest
from gankd.store import Artifact, Store
from gankd.store.artifact import DamagedError, manifest_bytes, read_manifest, seal
from gankd.store.inventory import references
from gankd.store.root import open_root
from gankd.store.storage import Storage, explain_full_disk

KEY = "biggan-3f2a91"
TREES = st.dictionaries(
    st.lists(st.text("ab .é_-0", min_size=1, max_size=5).filter(lambda s: s.strip(".")), min_size=1, max_size=3).map(tuple),
    st.binary(max_size=200),
    min_size=1,
    max_size=5,
).filter(lambda tree: not any(a != b and b[: len(a)] == a for a in tree for b in tree))
quick = settings(max_examples=40, deadline=None, derandomize=True)


def write_tree(folder: Path, tree: dict[tuple[str, ...], bytes]) -> None:
    for parts, data in tree.items():
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def publish(store: Store, key: str = KEY, data: bytes = b"weights", **fields: object) -> Artifact:
    folder = store.scratch(key)
    (folder / "model.bin").write_bytes(data)
    return store.publish(key, folder, {"stage": "generator", **fields})


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


@quick
@given(TREES)
def test_any_tree_comes_back_as_it_was(tree: dict[tuple[str, ...], bytes]) -> None:
    with tempfile.TemporaryDirectory() as root:
        store = Store(root)
        folder = store.scratch(KEY)
        write_tree(folder, tree)
        store.publish(KEY, folder, {"stage": "generator", "metrics": {"fid": 1.5}, "config": {"lr": 1e-4, "n": {1: 2}}})
        artifact = Store(root).get(KEY)
        assert artifact is not None
        assert {parts: artifact.file("/".join(parts)).read_bytes() for parts in tree} == tree
        assert (artifact.metrics, artifact.config["lr"], artifact.stage) == ({"fid": 1.5}, 1e-4, "generator")
        assert not folder.exists()
        assert not list(Path(root, "scratch").iterdir())


@quick
@given(TREES, st.data())
def test_any_changed_byte_or_length_is_noticed(tree: dict[tuple[str, ...], bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as root:
        store = Store(root)
        folder = store.scratch(KEY)
        write_tree(folder, tree)
        path = store.publish(KEY, folder, {"stage": "generator", "metrics": {"fid": 0.1}}).path
        victim = data.draw(st.sampled_from(sorted(p for p in path.rglob("*") if p.is_file())))
        content = bytearray(victim.read_bytes())
        how = data.draw(st.sampled_from(["flip", "cut", "grow", "missing"] if content else ["grow", "missing"]))
        place, mask = data.draw(st.integers(0, 10**6)), data.draw(st.integers(1, 255))
        if how == "flip":
            content[place % len(content)] ^= mask
        elif how == "cut":
            del content[place % len(content) :]
        else:
            content += b"\0"
        if how == "missing":
            victim.unlink()
        else:
            victim.write_bytes(content)
        with pytest.warns(UserWarning, match=rf"{KEY} .* is damaged .*damaged/{KEY}-0"):
            assert store.get(KEY) is None
        assert Path(root, "damaged", f"{KEY}-0").is_dir()
        assert not store.has(KEY)
        assert publish(store).file("model.bin").read_bytes() == b"weights"
        assert store.get(KEY) is not None


@pytest.mark.parametrize("change", [lambda raw: raw + b"\n", lambda raw: raw.replace(b"\n", b"\r", 1)])
def test_manifest_that_only_looks_the_same_is_damaged(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    store = Store(tmp_path)
    manifest = publish(store).path / "manifest.json"
    manifest.write_bytes(change(manifest.read_bytes()))
    with pytest.warns(UserWarning, match=r"manifest\.json was changed"):
        assert store.get(KEY) is None


def test_manifest_is_read_without_the_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.manifest(KEY) is None
    artifact = publish(store, metrics={"fid": 2.0})
    artifact.file("model.bin").unlink()
    assert store.manifest(KEY) == artifact.manifest
    (artifact.path / "manifest.json").write_text("{")
    with pytest.warns(UserWarning, match=f"{KEY} .* is damaged .*damaged/{KEY}-0"):
        assert store.manifest(KEY) is None
    assert not store.has(KEY)


def test_a_process_hashes_a_publication_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    monkeypatch.setattr("gankd.store.artifact.file_digest", lambda path: (hashed.append(path.name), file_digest(path))[1])
    store = Store(tmp_path)
    publish(store)
    hashed.clear()
    assert store.get(KEY)
    assert hashed == ["model.bin"]
    assert Store(tmp_path).get(KEY)
    assert hashed == ["model.bin"]
    store.storage.delete_folder(f"artifacts/{KEY}")
    assert store.get(KEY) is None, "the manifest is read again"
    publish(store, data=b"another")
    hashed.clear()
    again = store.get(KEY)
    assert again
    assert again.file("model.bin").read_bytes() == b"another"
    assert hashed == ["model.bin"], "another publication of the key is verified anew"


GET = "import sys; from gankd.store import Store; print(Store(sys.argv[1]).get(sys.argv[2]) is not None)"


@pytest.mark.parametrize("how", ["write", "cut", "replace", "missing"])
def test_damage_that_shows_in_a_file_s_status_is_noticed_by_the_same_process(tmp_path: Path, how: str) -> None:
    store = Store(tmp_path)
    file = publish(store).file("model.bin")
    age(file, 60)  # so that the next change shows, however coarse the clock of the file system
    assert store.get(KEY)
    if how == "missing":
        file.unlink()
    elif how == "replace":
        (tmp_path / "new").write_bytes(b"WEIGHTS")
        age(tmp_path / "new", 60)
        (tmp_path / "new").replace(file)
    else:
        file.write_bytes(b"weigh" if how == "cut" else b"WEIGHTS")
    with pytest.warns(UserWarning, match="damaged"):
        assert store.get(KEY) is None


def test_damage_that_does_not_show_is_found_by_the_next_process(tmp_path: Path) -> None:
    """The rule of `get`: silent damage to a file that this process has read is for other processes to find."""
    store = Store(tmp_path)
    file = publish(store).file("model.bin")
    assert store.get(KEY)
    status = file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.get(KEY)
    found = subprocess.run(
        [sys.executable, "-c", GET, str(tmp_path), KEY],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert found.stdout.strip() == "False", found.stderr
    assert "model.bin has other content" in found.stderr
    assert store.get(KEY) is None


def test_reader_of_a_damaged_artifact_spares_its_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one reader still verifies, another has set the damaged artifact aside and published a new one."""
    store, other = Store(tmp_path), Store(tmp_path)
    publish(store).file("model.bin").write_bytes(b"broken!")

    def damaged(folder: Path, manifest: object) -> None:
        monkeypatch.undo()
        with pytest.warns(UserWarning, match="damaged"):
            assert other.get(KEY) is None
        publish(other, data=b"new")
        raise DamagedError("model.bin has other content")

    monkeypatch.setattr("gankd.store.store.verify", damaged)
    artifact = store.get(KEY)
    assert artifact is not None
    assert artifact.file("model.bin").read_bytes() == b"new"
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_arrays_are_mapped_and_read_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.scratch(KEY)
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    np.save(folder / "images.npy", images)
    np.save(folder / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    artifact = store.publish(KEY, folder, {"stage": "samples"})
    mapped = artifact.array("images")
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, images)
    with pytest.raises(ValueError, match=r"[Oo]bject arrays|[Pp]ython objects"):
        artifact.array("evil.npy")
    with pytest.raises(FileNotFoundError, match=r"no file 'labels.npy', only .*images.npy"):
        artifact.array("labels")


@pytest.mark.parametrize("key", ["../x", "a/b", "", "A", "a.b", "a\n", "/etc"])
def test_keys_cannot_leave_the_store(tmp_path: Path, key: str) -> None:
    store = Store(tmp_path)
    for call in (
        store.has,
        store.get,
        store.manifest,
        store.scratch,
        store.load_checkpoint,
        lambda k: store.refer("s", "t", {"g": k}),
        lambda k: store.save_checkpoint(k, b""),
        lambda k: store.lease(k).__enter__(),
    ):
        with pytest.raises(ValueError, match="not a name in the store"):
            call(key)
    with pytest.raises(ValueError, match="not a name in the store"):
        store.refer("../s", "t", {})


def test_only_plain_files_are_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, make in {
        "link": lambda p: p.symlink_to("/etc/passwd"),
        "pipe": os.mkfifo,
        "manifest.json": lambda p: p.write_bytes(b"{}"),
    }.items():
        folder = store.scratch(KEY)
        make(folder / name)
        with pytest.raises(ValueError, match="plain files"):
            store.publish(KEY, folder, {"stage": "generator"})
        assert not store.has(KEY)


def test_first_publication_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = publish(store, data=b"first")
    second = publish(store, data=b"second")
    assert second.file("model.bin").read_bytes() == b"first"
    assert second.manifest == first.manifest


def test_publishing_over_damage_replaces_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store).file("model.bin").write_bytes(b"broken!")
    with pytest.warns(UserWarning, match="other content"):
        assert publish(store, data=b"new").file("model.bin").read_bytes() == b"new"
    (tmp_path / "artifacts" / KEY / "manifest.json").unlink()
    with pytest.warns(UserWarning, match=f"damaged/{KEY}-1"):
        assert publish(store, data=b"newer").file("model.bin").read_bytes() == b"newer"


def test_folder_from_elsewhere_is_published(tmp_path: Path) -> None:
    """Another file system (shared memory, where there is one) cannot be renamed from."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as elsewhere:
        folder = Path(elsewhere, "out")
        write_tree(folder, {("a", "b"): b"1"})
        assert Store(tmp_path).publish(KEY, folder, {"stage": "x"}).file("a/b").read_bytes() == b"1"
        assert not folder.exists()


def test_manifest_cannot_name_files_outside(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    good = seal(KEY, tmp_path, {"stage": "x"})
    assert read_manifest(KEY, manifest_bytes(good)) == good
    for name in ("../f", "/etc/passwd"):
        bad = {k: v for k, v in good.items() if k != "digest"} | {"files": {name: good["files"]["f"]}}
        bad["digest"] = hashlib.sha256(manifest_bytes(bad)).hexdigest()
        with pytest.raises(DamagedError, match="outside"):
            read_manifest(KEY, manifest_bytes(bad))


# ---- checkpoints


def test_checkpoints_keep_two_and_fall_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.load_checkpoint(KEY) is None
    for step in range(5):
        store.save_checkpoint(KEY, f"step {step}".encode())
    assert len(store.storage.list(f"checkpoints/{KEY}")) == 2
    newest = store.load_checkpoint(KEY)
    assert newest is not None
    assert newest.read_bytes() == b"step 4"
    newest.write_bytes(b"step X")
    with pytest.warns(UserWarning, match="damaged"):
        before = store.load_checkpoint(KEY)
    assert before is not None
    assert before.read_bytes() == b"step 3"
    (tmp_path / "state").write_bytes(b"step 5")
    store.save_checkpoint(KEY, tmp_path / "state")
    assert store.load_checkpoint(KEY).read_bytes() == b"step 5"  # type: ignore[union-attr]
    publish(store)
    assert store.load_checkpoint(KEY) is None
    assert not (tmp_path / "checkpoints" / KEY).exists()


def test_failures_are_remembered_by_sweep(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.remember_failure("sweep-1", KEY, "the loss became NaN")
    assert store.known_failure("sweep-1", KEY) == "the loss became NaN"
    assert store.known_failure("sweep-2", KEY) is None


# ---- ls and gc


def test_ls(tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = time.time()
    publish(store, "student-1")
    publish(store, "teacher-1")
    store.scratch("unseen-1")
    store.refer("sweep-1", "trial_0", {"teacher": "teacher-1"})
    student, teacher = store.ls()
    assert (student.key, student.referenced) == ("student-1", False)
    assert before - 1 <= student.created <= time.time() + 1
    assert student.bytes == sum(p.stat().st_size for p in (tmp_path / "artifacts" / "student-1").iterdir())
    assert (teacher.key, teacher.referenced) == ("teacher-1", True)


def test_ls_and_gc_open_no_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, looked_at = Store(tmp_path), []
    for number in range(5):
        publish(store, f"student-{number}")
    store.refer("sweep-1", "trial_0", {"student": "student-1"})
    open_file, scandir, listdir = Path.open, os.scandir, os.listdir
    for owner, name, real in ((Path, "open", open_file), (os, "scandir", scandir), (os, "listdir", listdir)):
        monkeypatch.setattr(owner, name, lambda path, *a, real=real, **k: (looked_at.append(str(path)), real(path, *a, **k))[1])
    assert [entry.referenced for entry in store.ls()] == [False, True, False, False, False]
    assert [entry.key for entry in store.gc(dry_run=True)] == ["student-0", "student-2", "student-3", "student-4"]
    assert str(tmp_path / "artifacts") in looked_at
    assert not [path for path in looked_at if "artifacts/" in path]


@pytest.mark.parametrize("memory", [None, b"", b"student-1 1\nstudent-1 9 1", b"\xff\0\nstudent-9 5 1.000\n"])
def test_ls_looks_up_what_it_does_not_remember(tmp_path: Path, memory: bytes | None) -> None:
    """The memory of sizes may be missing (an older store), torn by a power cut, or tell of what is gone."""
    store = Store(tmp_path)
    for key in ("student-1", "teacher-1"):
        publish(store, key)
    known = [(entry.key, entry.bytes) for entry in store.ls()]
    index = tmp_path / "artifacts.txt"
    remembered = index.read_text()
    index.unlink()
    if memory is not None:
        index.write_bytes(memory)
    assert [(entry.key, entry.bytes) for entry in store.ls()] == known
    assert [line.split()[:2] for line in index.read_text().splitlines()] == [line.split()[:2] for line in remembered.splitlines()]


def test_ls_tells_the_size_of_the_present_publication(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    store.gc()
    publish(store, data=b"much larger weights")
    (entry,) = store.ls()
    assert entry.bytes == sum(p.stat().st_size for p in (tmp_path / "artifacts" / KEY).iterdir())


def test_gc_does_not_touch_what_is_begun_while_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that starts between the look at the references and the deletion has nothing that protects it."""
    store, begun = Store(tmp_path), []

    def references_then_a_stage_begins(storage: Storage) -> set[str]:
        found = references(storage)
        begun.append(store.scratch(KEY))
        store.save_checkpoint(KEY, b"state")
        return found

    monkeypatch.setattr("gankd.store.garbage.references", references_then_a_stage_begins)
    assert store.gc() == []
    assert begun[0].exists()
    assert store.load_checkpoint(KEY) is not None


# ---- recipes


def test_artifacts_of_a_recipe(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key, created in (("gan-b", 3.0), ("gan-a", 2.0), ("gan-c", 1.0)):
        out = store.scratch(key)
        store.publish(key, out, {"stage": "gan", "created": created}, recipe="gan-recipe")
    publish(store, "gan-d")
    assert store.of_recipe("gan-recipe") == ["gan-c", "gan-a", "gan-b"]
    assert store.of_recipe("another") == []
    store.refer("sweep-1", "trial_0", {"gan": "gan-a"})
    assert len(store.gc(dry_run=True)) == 3
    assert len(list((tmp_path / "recipes/gan-recipe").iterdir())) == 3
    store.gc()
    assert store.of_recipe("gan-recipe") == ["gan-a"]
    assert [path.name for path in (tmp_path / "recipes/gan-recipe").iterdir()] == ["gan-a"]
    (tmp_path / "sweeps/sweep-1/keys/trial_0.json").unlink()
    store.gc()
    assert not (tmp_path / "recipes/gan-recipe").exists()


def test_a_damaged_artifact_is_of_no_recipe_until_it_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.publish(KEY, store.scratch(KEY), {"stage": "gan"}, recipe="gan-recipe")
    (tmp_path / "artifacts" / KEY / "manifest.json").write_text("{")
    with pytest.warns(UserWarning, match="damaged"):
        assert store.of_recipe("gan-recipe") == []
    publish(store)
    assert store.of_recipe("gan-recipe") == [KEY]


def test_a_bad_recipe_publishes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="not a name in the store"):
        store.publish(KEY, store.scratch(KEY), {"stage": "gan"}, recipe="../x")
    with pytest.raises(ValueError, match="not a name in the store"):
        store.of_recipe("../x")
    assert not store.has(KEY)


def test_gc_deletes_what_nobody_needs_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.refer("sweep-1", "trial_0", {"teacher": "used-1", "student": "unfinished-1"})
    publish(store, "used-1")
    store.save_checkpoint("used-1", b"left by a holder that slept")
    store.save_checkpoint("unfinished-1", b"keep")
    publish(store, "unused-1")
    store.save_checkpoint("orphan-1", b"x")
    publish(store, "broken-1").file("model.bin").unlink()
    with pytest.warns(UserWarning, match="damaged"):
        store.get("broken-1")
    abandoned = store.scratch("abandoned-1")
    old, young = tmp_path / "scratch" / ".tmp-old", tmp_path / "scratch" / ".tmp-young"
    for path in (old, young):
        path.write_bytes(b"x")
    age(old, 7200)
    with store.lease("leased-1"):
        leased = store.scratch("leased-1")
        store.save_checkpoint("leased-1", b"x")
        publish(store, "leased-2")
        with store.lease("leased-2"):
            doomed = {(e.kind, e.key) for e in store.gc(dry_run=True)}
            assert all(path.exists() for path in (abandoned, old)), "a dry run deletes nothing"
            assert store.has("unused-1")
            assert {(e.kind, e.key) for e in store.gc()} == doomed
    assert doomed == {
        ("artifact", "unused-1"),
        ("checkpoint", "orphan-1"),
        ("checkpoint", "used-1"),
        ("damaged", "broken-1"),
        ("scratch", "abandoned-1"),
        ("scratch", ".tmp"),
    }
    assert [e.key for e in store.ls()] == ["leased-2", "used-1"]
    assert leased.exists()
    assert young.exists()
    assert not old.exists()
    assert not abandoned.exists()
    assert store.load_checkpoint("unfinished-1") is not None
    assert store.load_checkpoint("leased-1") is not None
    assert store.load_checkpoint("orphan-1") is None


def test_gc_refuses_to_guess(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    (tmp_path / "sweeps/s/keys").mkdir(parents=True)
    (tmp_path / "sweeps/s/keys/t.json").write_text("{")
    with pytest.raises(UserError, match=r"sweeps/s/keys/t\.json"):
        store.gc()
    assert store.has(KEY)


# ---- single flight between threads


def test_threads_compute_once(tmp_path: Path) -> None:
    computed, found = [], []
    waiting = threading.Barrier(6)

    def worker() -> None:
        store = Store(tmp_path)
        waiting.wait(30)
        artifact = store.get(KEY)
        if artifact is None:
            with store.lease(KEY):
                artifact = store.get(KEY)
                if artifact is None:
                    computed.append(1)
                    artifact = publish(store)
        found.append(artifact.manifest["publication"])

    threads = [threading.Thread(target=worker) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(computed) == 1
    assert len(found) == 6
    assert len(set(found)) == 1
    assert not Store(tmp_path).storage.list("leases")


def test_waiting_can_be_shown_and_given_up(tmp_path: Path) -> None:
    store, seen = Store(tmp_path), []

    def on_wait(holder: str, seconds: float) -> None:
        seen.append((holder, seconds))
        if len(seen) == 2:
            raise KeyboardInterrupt

    with store.lease(KEY) as lease:
        with pytest.raises(KeyboardInterrupt), store.lease(KEY, on_wait=on_wait):
            raise AssertionError("the lease is taken")
        assert lease.held
        assert not lease.lost
    assert f"process {os.getpid()}" in seen[0][0]
    assert 0 <= seen[0][1] < seen[1][1]


def test_lease_is_released_by_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.lease(KEY):
        raise RuntimeError
    assert not store.storage.list("leases")


# ---- storage roots


def test_storage_that_is_a_file_or_below_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=rf"{path} is not a folder.*--storage"):
            open_root(path)


def test_storage_that_cannot_be_written() -> None:
    if not Path("/proc/self/mounts").exists():
        pytest.skip("needs a folder that even root cannot write")
    with pytest.raises(UserError, match=r"/proc/gankd cannot be written .*--storage"):
        open_root("/proc/gankd")


def test_storage_names_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("relative")
    monkeypatch.chdir("/")
    publish(store)
    assert Store(f"file://{tmp_path}/relative").has(KEY)
    with pytest.raises(UserError, match="s4://bucket/x cannot be opened"):
        open_root("s4://bucket/x")


FULL_DISK = """
import shutil, sys, numpy as np
from contextlib import suppress
from pathlib import Path
from gankd.store.artifact import DamagedError, manifest_bytes, read_manifest, seal
from gankd.errors import UserError
from gankd.store.storage import explain_full_disk
from gankd.store import Store

def refused(call):
    try:
        call()
    except UserError as error:
        assert "full" in str(error) and sys.argv[1] in str(error) and "MiB are free" in str(error), error
        fill()
        return True

def fill():
    with suppress(OSError), open(root / "filler", "ab", buffering=0) as file:
        while file.write(bytes(1024)):
            pass

root = Path(sys.argv[1])
store = Store(root)
store.save_checkpoint("gan-1", b"c" * 4096)
folder = store.scratch("gan-1")
(folder / "model.bin").write_bytes(b"m" * 4096)
big = store.scratch("samples-1")
def stage():
    with explain_full_disk(big):
        np.save(big / "images.npy", np.zeros(4 << 20, np.uint8))
assert refused(stage)                                   # numpy hides the error number
assert refused(lambda: store.publish("gan-1", folder, {"stage": "gan"}))
assert refused(lambda: store.save_checkpoint("gan-1", b"d" * 4096))
assert refused(lambda: store.refer("s", "t", {"gan": "gan-1"}))
assert not store.has("gan-1") and store.get("gan-1") is None
assert store.load_checkpoint("gan-1").read_bytes() == b"c" * 4096
assert [p.name for p in (root / "scratch").iterdir()] == [big.name]
assert len(list((root / "checkpoints/gan-1").iterdir())) == 1
shutil.rmtree(big)
folder = store.scratch("gan-1")
(folder / "model.bin").write_bytes(b"m" * 4096)
store.publish("gan-1", folder, {"stage": "gan"})
assert store.get("gan-1") is not None
"""


def test_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """On a real disk of 2 MiB, in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["unshare", "-rm", "sh", "-ec", 'mount -t tmpfs -o size=2m tmpfs "$0"; exec "$@"', str(disk)]
    try:
        if subprocess.run([*mount, "true"], capture_output=True).returncode:
            pytest.skip("may not mount a disk here")
    except FileNotFoundError:
        pytest.skip("no unshare here")
    done = subprocess.run(
        [*mount, sys.executable, "-c", FULL_DISK, str(disk)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_other_errors_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), explain_full_disk(tmp_path / "missing"):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(UserError, match=r"missing is full, \d+\.\d MiB"), explain_full_disk(tmp_path / "missing"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_local_use_is_light() -> None:
    code = "import sys, gankd.store.store; print([m for m in ('torch', 'ray', 'mlflow', 'pyarrow') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_manifest_says_what_it_holds(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        artifact = publish(Store(tmp_path), inputs={"teacher": "teacher-1"})
    stored = json.loads((artifact.path / "manifest.json").read_text())
    assert stored["files"] == {"model.bin": {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}}
    assert stored["inputs"] == {"teacher": "teacher-1"}
    assert abs(stored["created"] - time.time()) < 600
