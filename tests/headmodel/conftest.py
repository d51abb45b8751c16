import pytest
import torch

from davatar.core.settings import resolve
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_codes import open_code_maps
from davatar.headmodel.open_start import new_model
from davatar.headmodel.training import TrainingSettings
from davatar.headmodel.weights import save_weights


@pytest.fixture(scope="session")
def tiny_settings() -> TrainingSettings:
    return resolve(TrainingSettings, "tiny", env_prefix="", component="nphm").value


@pytest.fixture(scope="session")
def maps():
    return open_code_maps()


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory, tiny_settings, maps):
    """An untrained tiny head model whose field is a rough ball, so that it has a surface."""
    model = new_model(tiny_settings, maps)
    model.identity.biases[-1].data.zero_()
    path = tmp_path_factory.mktemp("headmodel") / "tiny.safetensors"
    save_weights(path, model, maps, tiny_settings)
    return path


@pytest.fixture(scope="session")
def tiny_model(tiny_file) -> HeadModel:
    torch.set_num_threads(1)
    return HeadModel.from_pretrained(tiny_file)
