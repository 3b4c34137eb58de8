"""Whether a run can begin or go on in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast._errors import BadInput
from holdfast.recipe import check_folder, load
from holdfast.recipe.loading import dump, resolved
from tests.recipe.small import recipe


def test_a_new_run_needs_a_folder_of_its_own(tmp_path: Path) -> None:
    asked, folder = recipe(tmp_path), tmp_path / "run"
    check_folder(asked)
    assert not folder.exists()
    folder.mkdir()
    check_folder(asked)
    check_folder(asked, tmp_path / "elsewhere")
    (folder / "mine").write_text("mine")
    with pytest.raises(BadInput, match="already there"):
        check_folder(asked)
    with pytest.raises(BadInput, match="already there"):
        check_folder(asked, folder / "mine")


def test_what_is_resumed_has_to_be_there_unfinished_and_the_same(tmp_path: Path) -> None:
    asked, folder = recipe(tmp_path), tmp_path / "run"
    with pytest.raises(BadInput, match="no run in"):
        check_folder(asked, resume=True)
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dump(resolved(asked)), "utf-8")
    with pytest.raises(BadInput, match="no complete checkpoint"):
        check_folder(asked, resume=True)
    with pytest.raises(BadInput, match="another `seed`"):
        check_folder(load({**asked.model_dump(), "seed": 7}), resume=True)
    (folder / "certificate.json").write_text("{}")
    with pytest.raises(BadInput, match="came to its end"):
        check_folder(asked, resume=True)
