"""Published values: which models have them, and a gate of a tenth of a percentage point."""

from __future__ import annotations

import doctest
from pathlib import Path

import open_clip
import pytest

from eval import published as module
from eval.published import compare, published, table
from eval.run import main
from vlp.errors import UserError
from vlp.models.kinds.open_clip import OpenClip

NAME = "ViT-B-32:laion2b_s34b_b79k"


def test_docstring_examples() -> None:
    assert doctest.testmod(module).failed == 0


def test_every_model_of_the_table_is_one_of_open_clip_by_the_name_that_fits_its_weights() -> None:
    for name in table()["values"]:
        assert tuple(name.split(":")) in open_clip.list_pretrained()
        OpenClip.named(name).check_origin()


def test_values_of_a_tag_and_of_its_repository_are_the_same() -> None:
    by_tag = published(NAME, OpenClip.named(NAME), ["imagenet", "my_own"])
    by_hub = published("hf", OpenClip("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"), ["imagenet"])
    assert by_tag == by_hub == {"imagenet/acc1": 66.56}


def test_a_tenth_of_a_point_is_within_and_more_is_not() -> None:
    values = {"imagenet/acc1": 66.56, "flickr30k/mean_recall@1": 75.44}
    ours = {
        "imagenet/class/acc1": 0.6646,
        "imagenet/class/acc5": 0.9,
        "flickr30k/en/image_to_text/recall@1": 0.80,
        "flickr30k/en/text_to_image/recall@1": 0.71,
        "flickr30k/en/text_to_image/recall@10": 0.95,
        "flickr30k/zh/image_to_text/recall@1": 0.1,  # of other languages and tasks nothing is published
        "flickr30k/zh/text_to_image/recall@1": 0.1,
        "imagenet/few_shot/class/acc1": 0.7,
    }
    one, other = compare(ours, values)
    assert (one.agrees, other.agrees) == (True, True)
    assert str(one) == "imagenet/acc1: 66.46 %, published 66.56 % (-0.10, within 0.1 is expected)"
    one, other = compare({**ours, "imagenet/class/acc1": 0.66459, "flickr30k/en/text_to_image/recall@1": 0.7}, values)
    assert (one.agrees, other.agrees) == (False, False)


def test_what_is_not_published_is_said_before_anything_is_computed() -> None:
    with pytest.raises(
        UserError, match=r'nothing is published of "ViT-B-32:laion2b_e16".*models with published values'
    ):
        published("ViT-B-32:laion2b_e16", OpenClip("ViT-B-32", "laion2b_e16"), ["imagenet"])
    with pytest.raises(UserError, match=r"nothing is published of .* on mine; what is there: imagenet/acc1"):
        published(NAME, OpenClip.named(NAME), ["mine"])
    with pytest.raises(UserError, match="does not say it alone"):
        compare({"imagenet/a/acc1": 0.1, "imagenet/b/acc1": 0.2}, {"imagenet/acc1": 10.0})


def test_a_wrong_name_a_model_folder_and_another_dataset_end_before_a_model_is_loaded(
    model_folder: Path, shards: Path
) -> None:
    data = [str(shards), "--published", "--no-cache"]
    with pytest.raises(UserError, match=r"trained with QuickGELU.*name them as ViT-B-32-quickgelu:openai"):
        main(["ViT-B-32:openai", *data])
    with pytest.raises(UserError, match=r"nothing is published of .*models with published values"):
        main([str(model_folder), *data])
    with pytest.raises(UserError, match=r"nothing is published of ViT-B-32-quickgelu:openai on shapes; what is there"):
        main(["ViT-B-32-quickgelu:openai", *data])
