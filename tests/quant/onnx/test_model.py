"""Files that are no network, or none that this reads."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_files import INPUT, Net

from sparse_mcu.errors import NetworkError
from sparse_mcu.quant.onnx import read_model


def test_only_what_the_logits_need_is_kept(tmp_path):
    net = Net(("N", 1, 4, 4))
    net.node("Sin", INPUT)  # unknown here, but nothing reads it
    x = net.node("Softmax", net.node("Flatten", net.node("GlobalAveragePool", net.conv(INPUT, 1, 3))))
    model = read_model(net.save(tmp_path / "net.onnx", x))
    assert [node.op for node in model.nodes] == ["Conv", "GlobalAveragePool"]
    assert model.input_shape == (None, 1, 4, 4)


def test_what_is_damaged_is_said(tmp_path):
    net = Net(("N", 1, 4, 4))
    path = net.save(tmp_path / "net.onnx", net.conv(INPUT, 1, 3))
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"not a network", b"", b"\xff" * 100):
        path.write_bytes(data)
        with pytest.raises(NetworkError, match="must be an ONNX file, but is not one or is damaged") as caught:
            read_model(path)
        assert "\n" not in str(caught.value)


def test_several_inputs_are_refused(tmp_path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 2)) for name in ("one", "two", "sum")]
    graph = helper.make_graph([helper.make_node("Add", ["one", "two"], ["sum"])], "net", values[:2], values[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "net.onnx")
    with pytest.raises(NetworkError, match=r"one input and one output, but .* has 2 \(one, two\) and 1 \(sum\)"):
        read_model(tmp_path / "net.onnx")


def test_constants_are_computed_by_the_files_own_operator_set(tmp_path):
    net = Net((1, 3, 1), opset=11)  # in which Squeeze has its axes as an attribute
    path = net.save(tmp_path / "net.onnx", net.relu(net.node("Squeeze", INPUT, axes=[0])))
    model = read_model(path)
    squeeze = model.nodes[0]
    result = model.evaluate(squeeze, {squeeze.inputs[0]: np.zeros((1, 3, 1), np.float32)})
    assert {name: array.shape for name, array in result.items()} == {squeeze.outputs[0]: (3, 1)}
