"""Archives that are not what they claim to be: each is refused, and nothing in them is ever unpickled or evaluated."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.errors import InvalidExport, NonFiniteWeights
from ihvp.exports import read_program
from ihvp.exports.archive import open_archive
from tests.exports.programs import (
    Entries,
    Stack,
    Touch,
    export,
    in_json,
    lying_directory,
    numbers,
    poison,
    rewritten,
)
from tests.workers.problems import put
from workers.resolvers.exported import load_export

WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
GRAPH = "models/model.json"


def read(path: Path) -> None:
    with open_archive(path) as archive:
        read_program(archive)


def refused(path: Path, words: str) -> InvalidExport:
    with pytest.raises(InvalidExport, match=words) as caught:
        read(path)
    return caught.value


PLACES: dict[str, Callable[[Entries, bytes], None]] = {
    "a weight that says so": lambda e, p: (
        e.update({"data/weights/weight_0": p}),
        in_json(WEIGHTS, lambda d: d["config"]["convolution.weight"].update(use_pickle=True))(e),
    )[0],
    "a weight that says it in other words": lambda e, p: (
        e.update({"data/weights/weight_0": p}),
        in_json(WEIGHTS, lambda d: d["config"]["convolution.weight"].update(use_pickle="yes"))(e),
    )[0],
    "a constant that says so": lambda e, p: (
        e.update({"data/constants/tensor_0": p}),
        in_json(CONSTANTS, lambda d: d["config"]["scale"].update(use_pickle=True))(e),
    )[0],
    "a custom object": lambda e, p: e.update({"data/constants/custom_obj_0": p}),
    "an entry of a pickle's name": lambda e, p: e.update({"data.pkl": p}),
    "weights of an older format": lambda e, p: e.update({"data/weights/model.pt": p}),
    "extra files": lambda e, p: e.update({"extra/hook.py": p}),
    "compiled code": lambda e, p: e.update({"data/aotinductor/model/model.so": p}),
}


class TestPickles:
    """A pickle that would make a file, in each place where an archive can have one."""

    @pytest.mark.parametrize("place", PLACES)
    def test_it_is_refused_and_its_file_is_not_made(self, place: str, stack: Path, tmp_path: Path) -> None:
        trap = tmp_path / "touched"
        path = rewritten(stack, tmp_path / "a.pt2", lambda e: PLACES[place](e, poison(trap)))
        refused(path, "pickled|no plain program")
        assert not trap.exists()

    def test_sample_inputs_are_never_looked_at(self, stack: Path, tmp_path: Path) -> None:
        trap = tmp_path / "touched"
        path = rewritten(stack, tmp_path / "a.pt2", lambda e: e.update({"data/sample_inputs/model.pt": poison(trap)}))
        blobs = FilesystemBlobStore(tmp_path / "blobs")
        module = load_export(blobs, put(blobs, path.read_bytes()), torch.float64)
        assert module(numbers(3, 16)).shape == (3, 4)
        assert not trap.exists()

    def test_the_trap_works(self, tmp_path: Path) -> None:
        import pickle

        pickle.loads(pickle.dumps(Touch(tmp_path / "touched")))
        assert (tmp_path / "touched").exists()

    def test_code_in_texts_is_not_evaluated(self, stack: Path, tmp_path: Path) -> None:
        """torch.export.load hands these to a parser of expressions, which evaluates them."""
        trap = tmp_path / "touched"
        code = f"__import__('pathlib').Path({str(trap)!r}).touch()"

        def change(document: dict[str, Any]) -> None:
            document["guards_code"] = [code]
            for tensor in document["graph_module"]["graph"]["tensor_values"].values():
                for side in tensor["sizes"]:
                    if "as_expr" in side:
                        side["as_expr"]["expr_str"] = code

        path = rewritten(stack, tmp_path / "a.pt2", in_json(GRAPH, change))
        read(path)
        assert not trap.exists()


class TestZip:
    def test_not_a_zip(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pt2"
        for content in (b"", b"PK", b"not a zip at all", b"\x80\x04pickle"):
            path.write_bytes(content)
            refused(path, "no zip archive")

    def test_truncated_anywhere(self, stack: Path, tmp_path: Path) -> None:
        content, path = stack.read_bytes(), tmp_path / "a.pt2"
        for length in range(0, len(content) - 1, 997):
            path.write_bytes(content[:length])
            refused(path, "archive")

    def test_damaged_bytes_of_the_graph_and_of_a_weight(self, stack: Path, tmp_path: Path) -> None:
        path = tmp_path / "a.pt2"
        with zipfile.ZipFile(stack) as file:
            places = {i.filename.partition("/")[2]: i.header_offset for i in file.infolist()}
        content = bytearray(stack.read_bytes())
        content[places[GRAPH] + 2000] ^= 0xFF
        path.write_bytes(content)
        refused(path, "damaged")
        content = bytearray(stack.read_bytes())
        at = content.find(b"weight_0") + 120
        content[at] ^= 0xFF
        path.write_bytes(content)
        blobs = FilesystemBlobStore(tmp_path / "blobs")
        with pytest.raises(InvalidExport, match="damaged"):
            load_export(blobs, put(blobs, bytes(content)), torch.float64)

    @pytest.mark.parametrize(
        "name", ["/etc/passwd", "../outside", "data/../../x", "data\\weights\\weight_0", "data/weights/weight_0/../x"]
    )
    def test_names_that_lead_elsewhere(self, name: str, stack: Path, tmp_path: Path) -> None:
        path = rewritten(stack, tmp_path / "a.pt2", lambda e: e.update({name: b"x"}))
        refused(path, "leads out|no plain program|in one folder")

    def test_an_entry_twice(self, stack: Path, tmp_path: Path) -> None:
        path = rewritten(stack, tmp_path / "a.pt2", lambda e: None)
        with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as file:
            file.writestr(f"stack/{GRAPH}", b"{}")
        refused(path, "an entry twice")

    def test_compressed_entries_such_as_bombs_are_made_of(self, stack: Path, tmp_path: Path) -> None:
        def bomb(entries: Entries) -> None:
            entries["data/weights/weight_0"] = bytes(50_000_000)

        path = rewritten(stack, tmp_path / "a.pt2", bomb, compression=zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 200_000
        refused(path, "not compressed")

    def test_a_directory_that_claims_gigabytes(self, stack: Path, tmp_path: Path) -> None:
        content = bytearray(rewritten(stack, tmp_path / "b.pt2", lambda e: None).read_bytes())
        at = content.rfind(b"PK\x05\x06")
        struct.pack_into("<I", content, at + 12, 1 << 30)
        path = tmp_path / "a.pt2"
        path.write_bytes(content)
        with path.open("r+b") as file:  # sparse: long enough for the claim to be believed
            file.truncate(0)
            file.seek(1 << 30)
            file.write(content)
        refused(path, "directory of the archive is too large")

    def test_sizes_that_lie(self, stack: Path, tmp_path: Path) -> None:
        refused(lying_directory(stack, tmp_path / "a.pt2"), "claim more bytes")

    @pytest.mark.parametrize(
        ("sizes", "strides", "words"),
        [
            ([1_000_000, 1, 3, 3], [9, 9, 3, 1], "claims more numbers"),
            ([100_000, 1_000_000], [0, 0], "claims more numbers"),
            ([2, 2], [1_000, 1], "claims more numbers"),
            ([-3, 1], [1, 1], "shape is none"),
            ([1] * 64, [1] * 64, "shape is none"),
        ],
    )
    def test_weights_whose_shapes_lie(
        self, sizes: list[int], strides: list[int], words: str, stack: Path, tmp_path: Path
    ) -> None:
        def change(document: dict[str, Any]) -> None:
            meta = document["config"]["convolution.weight"]["tensor_meta"]
            meta["sizes"] = [{"as_int": size} for size in sizes]
            meta["strides"] = [{"as_int": stride} for stride in strides]

        refused(rewritten(stack, tmp_path / "a.pt2", in_json(WEIGHTS, change)), words)


def nodes(change: Callable[[list[dict[str, Any]]], None]) -> Callable[[Entries], None]:
    return in_json(GRAPH, lambda d: change(d["graph_module"]["graph"]["nodes"]))


def argument(found: list[dict[str, Any]], operator: str, position: int) -> dict[str, Any]:
    entry: dict[str, Any] = next(n for n in found if operator in n["target"])["inputs"][position]
    return entry


CHANGES: dict[str, tuple[Callable[[list[dict[str, Any]]], None], str]] = {
    "an operator that opens files": (
        lambda n: n[0].update(target="torch.ops.aten.from_file.default"),
        "not on the list",
    ),
    "a function of Python": (lambda n: n[0].update(target="os.system"), "not on the list"),
    "an attribute of an operator": (
        lambda n: n[0].update(target="torch.ops.aten.reshape.default.__class__"),
        "not on the list",
    ),
    "control flow": (lambda n: n[0].update(target="torch.ops.higher_order.cond"), "not on the list"),
    "random numbers": (lambda n: n[0].update(target="torch.ops.aten.rand_like.default"), "not on the list"),
    "dropout in training mode": (
        lambda n: argument(n, "dropout", 2).update(arg={"as_bool": True}),
        "exported in training mode",
    ),
    "dropout in training mode under another name": (
        lambda n: argument(n, "dropout", 2).update(arg={"as_bool": True}, name="nothing"),
        "exported in training mode",
    ),
    "a buffer that is written into": (
        lambda n: argument(n, "silu_", 0)["arg"]["as_tensor"].update(name="b_norm_running_mean"),
        "writes into",
    ),
    "an input that is written into": (
        lambda n: argument(n, "silu_", 0)["arg"]["as_tensor"].update(name="x"),
        "writes into",
    ),
    "a view of an input that is written into": (
        lambda n: argument(n, "silu_", 0)["arg"]["as_tensor"].update(name="reshape"),
        "writes into",
    ),
    "a value from nowhere": (
        lambda n: argument(n, "linear", 0)["arg"]["as_tensor"].update(name="elsewhere"),
        "before it is made",
    ),
    "a value made twice": (
        lambda n: n[-1]["outputs"][0]["as_tensor"].update(name="x"),
        "makes a value twice",
    ),
    "an argument that is a graph": (
        lambda n: argument(n, "linear", 0).update(arg={"as_graph": {"name": "g", "graph": {}}}),
        "not read here",
    ),
    "an argument that is no number": (
        lambda n: argument(n, "flatten", 1).update(arg={"as_int": "1"}),
        "damaged",
    ),
}


class TestGraph:
    @pytest.mark.parametrize("name", CHANGES)
    def test_it_is_refused(self, name: str, stack: Path, tmp_path: Path) -> None:
        change, words = CHANGES[name]
        refused(rewritten(stack, tmp_path / "a.pt2", nodes(change)), words)

    @pytest.mark.parametrize("name", ["_leaves", "_steps.x", "forward", "training.weight", "head.weight.x"])
    def test_names_that_the_module_needs_itself(self, name: str, stack: Path, tmp_path: Path) -> None:
        def change(entries: Entries) -> None:
            in_json(WEIGHTS, lambda d: d["config"].update({name: d["config"].pop("shift")}))(entries)
            entries[GRAPH] = entries[GRAPH].replace(b'"buffer_name": "shift"', b'"buffer_name": "%s"' % name.encode())

        path = rewritten(stack, tmp_path / "a.pt2", change)
        blobs = FilesystemBlobStore(tmp_path / "blobs")
        with pytest.raises(InvalidExport, match="name that no module can have"):
            load_export(blobs, put(blobs, path.read_bytes()), torch.float64)

    def test_names_that_no_module_has(self, stack: Path, tmp_path: Path) -> None:
        def change(document: dict[str, Any]) -> None:
            document["config"]["__class__.x"] = document["config"].pop("shift")

        refused(rewritten(stack, tmp_path / "a.pt2", in_json(WEIGHTS, change)), "name that no module has")

    def test_json_that_is_none_or_nested_without_end(self, stack: Path, tmp_path: Path) -> None:
        for content in (b"[]", b"{", b'{"a":' * 100_000, b"\xff"):
            path = rewritten(stack, tmp_path / "a.pt2", lambda e, c=content: e.update({GRAPH: c}))
            refused(path, "no JSON")

    def test_json_that_lacks_anything_is_never_a_stack_trace(self, stack: Path, tmp_path: Path) -> None:
        """Each part of the document removed in turn, and replaced by what it is not."""
        from tests.exports.programs import entries_of

        document = json.loads(entries_of(stack)[1][GRAPH])["graph_module"]
        for part in ("graph", "signature"):
            for key in document[part]:
                for junk in (None, 7, "x", [], {}, [[]], [{}]):

                    def change(d: dict[str, Any], part: str = part, key: str = key, junk: Any = junk) -> None:
                        d["graph_module"][part][key] = junk

                    path = rewritten(stack, tmp_path / "a.pt2", in_json(GRAPH, change))
                    try:
                        read(path)
                    except InvalidExport:
                        continue


class TestWhatItIsGoodFor:
    def test_a_fixed_number_of_points_is_refused_with_the_line_that_mends_it(self, tmp_path: Path) -> None:
        path = export(Stack().double().eval(), (numbers(5, 16),), tmp_path / "a.pt2", fixed=True)
        error = refused(path, "one number of points only")
        assert error.given == 5
        line = (error.hint or "").partition("Export it with ")[2].partition(" with an x")[0]
        model, x = Stack().double(), numbers(5, 16)
        program = eval(line, {"torch": torch, "model": model, "x": x})  # the hint is code that works
        torch.export.save(program, path)
        read(path)

    def test_a_module_in_training_mode_is_refused(self, tmp_path: Path) -> None:
        path = export(Stack().double().train(), (numbers(5, 16),), tmp_path / "a.pt2")
        error = refused(path, "training mode|writes into|changes its own")
        assert "model.eval()" in (error.hint or "")

    def test_a_bounded_number_of_points_is_refused(self, tmp_path: Path) -> None:
        batch = torch.export.Dim("batch", max=64)
        program = torch.export.export(Stack().double().eval(), (numbers(5, 16),), dynamic_shapes=({0: batch},))
        torch.export.save(program, tmp_path / "a.pt2")
        refused(tmp_path / "a.pt2", "bounds the number")

    def test_weights_that_are_not_finite(self, tmp_path: Path) -> None:
        module = Stack().double().eval()
        with torch.no_grad():
            module.head.weight[0, 0] = float("nan")
        path = export(module, (numbers(5, 16),), tmp_path / "a.pt2")
        blobs = FilesystemBlobStore(tmp_path / "blobs")
        with pytest.raises(NonFiniteWeights, match=r"head\.weight"):
            load_export(blobs, put(blobs, path.read_bytes()), torch.float64)

    def test_points_that_are_mixed(self, tmp_path: Path) -> None:
        class Centred(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(16, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.layer(x - x.mean(0))  # type: ignore[no-any-return]

        path = export(Centred().double().eval(), (numbers(5, 16),), tmp_path / "a.pt2")
        blobs = FilesystemBlobStore(tmp_path / "blobs")
        module = load_export(blobs, put(blobs, path.read_bytes()), torch.float64)
        with pytest.raises(InvalidExport, match="mixes the points"):
            module.check_points_apart(numbers(2, 16))
