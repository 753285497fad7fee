"""The store in a bucket, against a real S3 server on this machine."""

import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from gankd.data import DataConfig, load
from gankd.errors import UserError
from gankd.paths import file_digest
from gankd.pipeline import Job, known_metrics, run
from gankd.store import Artifact, Store
from gankd.store.bucket import Bucket
from gankd.store.inventory import references
from gankd.store.lease import Lease
from gankd.store.root import open_root
from gankd.store.storage import Storage

KEY = "biggan-3f2a91"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "no_proxy": "127.0.0.1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():
            patch.setenv(name, value)
        patch.setattr(Bucket, "settle_s", 0.2)
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def uri(endpoint: str) -> str:
    """A bucket of this test's own."""
    name = f"bucket-{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT"), timeout=30)
    return f"s3://{name}/some/root"


def publish(store: Store, key: str = KEY, data: bytes = b"weights") -> Artifact:
    folder = store.scratch(key)
    (folder / "sub").mkdir()
    np.save(folder / "sub" / "images.npy", np.arange(6, dtype=np.uint8))
    (folder / "mödel weights.bin").write_bytes(data)
    (folder / "empty").touch()
    return store.publish(key, folder, {"stage": "generator", "metrics": {"fid": 2.5}})


def stored(store: Store, prefix: str) -> list[str]:
    return [info.name.removeprefix(f"{prefix}/") for info in store.storage.list(prefix)]


def overwrite(store: Store, name: str, data: bytes) -> None:
    (full,) = [info.name for info in store.storage.list("artifacts") if info.name.endswith(name)]
    store.storage.write_bytes(full, data)


def test_round_trip_between_machines(uri: str, tmp_path: Path) -> None:
    here, there = Store(uri, tmp_path / "here"), Store(uri, tmp_path / "there")
    assert there.get(KEY) is None
    made = publish(here)
    read = there.get(KEY)
    assert read is not None
    assert there.has(KEY)
    assert read.manifest == made.manifest
    assert (read.stage, read.metrics) == ("generator", {"fid": 2.5})
    for artifact in (made, read):
        assert artifact.file("mödel weights.bin").read_bytes() == b"weights"
        assert artifact.file("empty").read_bytes() == b""
        np.testing.assert_array_equal(artifact.array("sub/images"), np.arange(6, dtype=np.uint8))
    (entry,) = there.ls()
    assert (entry.key, entry.referenced) == (KEY, False)
    assert abs(entry.created - time.time()) < 600
    assert entry.bytes == sum(info.size for info in here.storage.list(f"artifacts/{KEY}"))


def test_copy_is_used_again_verified_and_mended(uri: str, tmp_path: Path) -> None:
    store = Store(uri, tmp_path)
    path = publish(store).file("mödel weights.bin")
    inode = path.stat().st_ino
    assert store.get(KEY) is not None
    assert path.stat().st_ino == inode, "no second download"
    path.write_bytes(b"weighty")
    again = store.get(KEY)
    assert again is not None
    assert again.file("mödel weights.bin").read_bytes() == b"weights"


class Downloads:
    """Counts what a storage reads: bytes of artifacts' files apart from all else."""

    def __init__(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes, self.reads = 0, []
        download, read_bytes = storage.download, storage.read_bytes

        def counted_download(name: str, target: Path) -> None:
            download(name, target)
            self.bytes += target.stat().st_size

        def counted_read(name: str) -> bytes:
            self.reads.append(name)
            return read_bytes(name)

        monkeypatch.setattr(storage, "download", counted_download)
        monkeypatch.setattr(storage, "read_bytes", counted_read)


def test_manifest_and_a_second_get_download_no_file(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = publish(Store(uri, tmp_path / "here"))
    size = sum(file["size"] for file in made.manifest["files"].values())
    store = Store(uri, tmp_path / "there")
    seen = Downloads(store.storage, monkeypatch)
    hashed = []
    monkeypatch.setattr("gankd.store.artifact.file_digest", lambda path: (hashed.append(path.name), file_digest(path))[1])
    assert store.manifest(KEY) == made.manifest
    assert (seen.bytes, hashed) == (0, [])
    for _ in range(2):
        assert store.get(KEY)
        assert (seen.bytes, len(hashed)) == (size, len(made.manifest["files"]))
    assert set(seen.reads) == {f"artifacts/{KEY}/manifest.json"}


def test_a_copy_that_rots_is_mended_by_the_next_process(uri: str, tmp_path: Path) -> None:
    file = publish(Store(uri, tmp_path)).file("mödel weights.bin")
    status = file.stat()
    file.write_bytes(b"weighty")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    code = "import sys, pathlib; from gankd.store import Store; Store(sys.argv[1], pathlib.Path(sys.argv[2])).get(sys.argv[3])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, uri, str(tmp_path), KEY], check=True, timeout=60, env=environment)
    assert file.read_bytes() == b"weights"


def test_ls_and_gc_read_no_manifest(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(uri, tmp_path)
    for key in ("gan-1", "gan-2"):
        publish(store, key)
    store.refer("sweep-1", "trial_0", {"gan": "gan-1"})
    seen = Downloads(store.storage, monkeypatch)
    assert [(entry.key, entry.referenced) for entry in store.ls()] == [("gan-1", True), ("gan-2", False)]
    assert [(entry.kind, entry.key) for entry in store.gc(dry_run=True)] == [("artifact", "gan-2"), ("copy", "gan-2")]
    assert set(seen.reads) == {"sweeps/sweep-1/keys/trial_0.json"}


def test_recipes(uri: str, tmp_path: Path) -> None:
    store = Store(uri, tmp_path)
    for key, created in (("gan-b", 2.0), ("gan-a", 3.0), ("gan-c", 1.0)):
        out = store.scratch(key)
        (out / "weights").write_bytes(b"w")
        store.publish(key, out, {"stage": "gan", "created": created}, recipe="gan-recipe")
    assert store.of_recipe("gan-recipe") == ["gan-c", "gan-b", "gan-a"]
    assert store.of_recipe("another") == []
    store.refer("sweep-1", "trial_0", {"gan": "gan-b"})
    store.gc()
    assert store.of_recipe("gan-recipe") == ["gan-b"]
    assert stored(store, "recipes") == ["gan-recipe/gan-b"]


def test_gc_spares_an_upload_that_ends_while_it_looks(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun and committed after the leases were looked at: nothing but the order of gc's looks protects it."""
    store = Store(uri, tmp_path)

    def references_then_an_upload_begins(storage: Storage) -> set[str]:
        found = references(storage)
        storage.write_bytes(f"artifacts/{KEY}/0123/model.bin", b"half")
        return found

    monkeypatch.setattr("gankd.store.garbage.references", references_then_an_upload_begins)
    assert store.gc() == []
    assert stored(store, "artifacts") == [f"{KEY}/0123/model.bin"]


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "manifest", "no json"])
def test_damage_in_the_bucket_is_set_aside(uri: str, tmp_path: Path, damage: str) -> None:
    made = publish(Store(uri, tmp_path / "a"))
    store = Store(uri, tmp_path / "b")
    if damage == "missing":
        store.storage.delete(f"artifacts/{KEY}/{made.manifest['publication']}/empty")
    elif damage == "manifest":
        overwrite(store, "manifest.json", json.dumps(made.manifest | {"metrics": {"fid": 0.0}}).encode())
    else:
        name = "manifest.json" if damage == "no json" else "mödel weights.bin"
        overwrite(store, name, {"flip": b"wEights", "cut": b"weight", "no json": b"{"}[damage])
    with pytest.warns(UserWarning, match=f"{KEY} .* is damaged"):
        assert store.get(KEY) is None
    assert not store.has(KEY)
    assert "manifest.json" in stored(store, f"damaged/{KEY}-0")
    assert not store.storage.list("artifacts")
    publish(store, data=b"second")
    assert store.get(KEY) is not None


def test_first_publication_wins_and_leaves_nothing_behind(uri: str, tmp_path: Path) -> None:
    first = publish(Store(uri, tmp_path / "a"))
    store = Store(uri, tmp_path / "b")
    assert publish(store, data=b"second").manifest == first.manifest
    assert len(stored(store, "artifacts")) == 4


def test_publisher_that_is_overtaken_while_uploading_gives_way(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = Store(uri, tmp_path / "a"), Store(uri, tmp_path / "b")
    upload = store.storage.upload

    def overtaken(source: Path, name: str) -> None:
        if not other.has(KEY):
            publish(other, data=b"other")
        upload(source, name)

    monkeypatch.setattr(store.storage, "upload", overtaken)
    assert publish(store).file("mödel weights.bin").read_bytes() == b"other"
    assert len(stored(store, "artifacts")) == 4


def test_register_belongs_to_the_last_writer(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = open_root(uri)
    monkeypatch.setattr("gankd.store.bucket.time.sleep", lambda _: bucket.write_bytes("leases/x.1.json", b"another"))
    assert not bucket.create("leases/x.1.json", b"ours")
    monkeypatch.undo()
    assert not bucket.create("leases/x.1.json", b"ours")
    assert bucket.create("leases/x.2.json", b"ours")
    assert bucket.read_bytes("leases/x.1.json") == b"another"


def test_upload_without_manifest_is_not_seen_and_collected(uri: str, tmp_path: Path) -> None:
    """What a publisher leaves that is killed before its last write."""
    store = Store(uri, tmp_path)
    store.storage.write_bytes(f"artifacts/{KEY}/0123/model.bin", b"half")
    assert not store.has(KEY)
    assert store.get(KEY) is None
    assert not store.ls()
    publish(store)
    assert [(e.kind, e.bytes) for e in store.gc(dry_run=True) if e.kind == "scratch"] == [("scratch", 4)]
    store.refer("sweep-1", "trial_0", {"generator": KEY})
    assert [(e.kind, e.key) for e in store.gc()] == [("scratch", KEY)]
    assert store.get(KEY) is not None


def test_gc(uri: str, tmp_path: Path) -> None:
    store = Store(uri, tmp_path, lease_ttl_s=3.0)
    store.refer("sweep-1", "trial_0", {"teacher": "used-1"})
    for key in ("used-1", "unused-1", "leased-1"):
        publish(store, key)
    store.save_checkpoint("orphan-1", b"x")
    left = store.scratch("abandoned-1")
    with store.lease("leased-1") as lease:
        assert lease.held
        doomed = {(e.kind, e.key) for e in store.gc()}
        assert doomed == {
            ("artifact", "unused-1"),
            ("copy", "unused-1"),
            ("checkpoint", "orphan-1"),
            ("scratch", "abandoned-1"),
        }
        assert [entry.key for entry in store.ls()] == ["leased-1", "used-1"]
        assert not left.exists()
    assert store.get("unused-1") is None
    assert store.get("used-1") is not None


def test_checkpoints(uri: str, tmp_path: Path) -> None:
    here, there = Store(uri, tmp_path / "here"), Store(uri, tmp_path / "there")
    for step in range(4):
        here.save_checkpoint(KEY, f"step {step}".encode())
    newest = there.load_checkpoint(KEY)
    assert newest is not None
    assert newest.read_bytes() == b"step 3"
    (name,) = [info.name for info in here.storage.list("checkpoints") if "00000004-" in info.name]
    here.storage.write_bytes(name, b"step X")
    with pytest.warns(UserWarning, match="damaged"):
        before = here.load_checkpoint(KEY)
    assert before is not None
    assert before.read_bytes() == b"step 2"
    publish(here)
    assert here.load_checkpoint(KEY) is None
    assert not here.storage.list("checkpoints")


COMPUTE_ONCE = """
import os, sys, time
from pathlib import Path
from gankd.store.bucket import Bucket
from gankd.store import Store

Bucket.settle_s = 0.3
uri, folder, key = sys.argv[1], Path(sys.argv[2]), "gan-1"
store = Store(uri, folder / str(os.getpid()))
artifact = store.get(key)
if artifact is None:
    with store.lease(key):
        artifact = store.get(key)
        if artifact is None:
            (folder / f"computed-{os.getpid()}").touch()
            if sys.argv[3] == "hang":
                time.sleep(600)
            out = store.scratch(key)
            (out / "weights").write_text(str(os.getpid()))
            artifact = store.publish(key, out, {"stage": "gan"})
print(artifact.file("weights").read_text())
"""


def start(uri: str, tmp_path: Path, how: str = "go") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", COMPUTE_ONCE, uri, str(tmp_path), how],
        text=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_processes_compute_once_and_replace_a_dead_one(uri: str, tmp_path: Path) -> None:
    children = [start(uri, tmp_path, "hang")]
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("computed-*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children += [start(uri, tmp_path) for _ in range(3)]
        children[0].kill()
        results = {child.communicate(timeout=60)[0] for child in children[1:]}
        assert [child.returncode for child in children[1:]] == [0, 0, 0]
    finally:
        for child in children:
            child.kill()
            child.wait()
    computed = {path.name.removeprefix("computed-") for path in tmp_path.glob("computed-*")} - {str(children[0].pid)}
    assert len(computed) == 1
    assert results == {computed.pop() + "\n"}


def test_last_writer_of_a_lease_holds_it(uri: str, tmp_path: Path) -> None:
    """Two nodes that write the same generation: the one whose write is there after the settling time has it."""
    store = Store(uri, tmp_path, lease_ttl_s=2.0)
    first = Lease(store.storage, KEY, 2.0)
    assert first.acquire()
    store.storage.write_bytes(f"leases/{KEY}.1.json", json.dumps({"nonce": "another", "machine": "node7"}).encode())
    deadline = time.monotonic() + 30
    while not first.lost:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.release()
    assert stored(store, "leases") == [f"{KEY}.1.json"], "the other's lease is left alone"
    with store.lease(KEY) as second:  # it is silent for longer than its time to live
        assert second.held
        assert stored(store, "leases") == [f"{KEY}.2.json"]
    assert not stored(store, "leases")


def test_query_options_reach_the_server(endpoint: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(Store(uri, tmp_path))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    host = quote(endpoint.removeprefix("http://"), safe="")
    assert Store(f"{uri}?endpoint_override={host}&scheme=http", tmp_path).has(KEY)


def test_bucket_that_is_missing_or_out_of_reach(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"storage s3://nobody/x cannot be written .*--storage"):
        open_root("s3://nobody/x")
    with pytest.raises(UserError, match=r"s3://b/x\?colour=red cannot be opened .*--storage"):
        open_root("s3://b/x?colour=red")
    with pytest.raises(UserError) as refused:
        open_root("s3://name:password@nobody/x")
    assert "password" not in str(refused.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"storage s3://nobody/x cannot be .*Could not connect"):
        open_root("s3://nobody/x")


def test_a_warm_run_downloads_manifests_and_no_artifact(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "plugin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "maker"))
    data = DataConfig(name="digits", train_images=200, val_fraction=0.25)
    job = Job("tiny", {"data": data.model_dump()}, uri, fingerprint=load(data).fingerprint, threads=1)
    made = run(job)
    fetched: list[str] = []
    download = Bucket.download

    def counted(self: Bucket, name: str, target: Path) -> None:
        fetched.append(name)
        download(self, name, target)

    monkeypatch.setattr(Bucket, "download", counted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    assert known_metrics(job) == made
    assert run(job) == made
    assert fetched == []
    # What has to be trained fetches its inputs and nothing else.
    run(replace(job, config={**job.config, "student": {"lr": 0.2}}))
    assert {name.split("/")[1].partition("-")[0] for name in fetched} == {"data", "teacher"}
