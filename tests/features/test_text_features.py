"""The hashed bag of words: by hand, normalised, equal in every process."""

import json
import os
import subprocess
import sys

import numpy as np

from recolam.features.text import hashed_words

TITLES, TAGS = ["Toy Story (1995)", "Amélie", "", "toy STORY 1995"], [["Comedy", "Kids"], [], [], ["kids", "comedy"]]


def test_rows_are_normalised_and_words_count_in_any_case_and_order() -> None:
    text_VF = hashed_words(TITLES, TAGS, features=64)
    assert text_VF.shape == (4, 64)
    assert text_VF.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(text_VF, axis=1), [1, 1, 0, 1], rtol=1e-6)
    np.testing.assert_array_equal(text_VF[0], text_VF[3])
    assert np.count_nonzero(text_VF[1]) == 1


def test_repeated_words_count_and_signs_are_those_of_the_word() -> None:
    once, twice = hashed_words(["toy", "toy toy story"], [[], []], features=1024)
    story = hashed_words(["story"], [[]], features=1024)[0]
    np.testing.assert_allclose(twice, (2 * once + story) / np.sqrt(5), rtol=1e-6)


def test_signs_are_balanced_and_buckets_used() -> None:
    words_VF = hashed_words([f"word{n}" for n in range(4000)], [[]] * 4000, features=32)
    assert abs(words_VF.sum()) < 5 * np.sqrt(4000)
    assert (np.abs(words_VF).sum(axis=0) > 70).all()


def test_equal_in_another_process() -> None:
    program = (
        "import json, sys; from recolam.features.text import hashed_words; "
        "print(json.dumps(hashed_words(*json.loads(sys.argv[1]), features=16).tolist()))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, json.dumps([TITLES, TAGS])],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "123"},
    )  # fmt: skip
    np.testing.assert_array_equal(
        np.array(json.loads(answer.stdout), np.float32), hashed_words(TITLES, TAGS, features=16)
    )
