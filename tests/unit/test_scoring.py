"""Which of several test scores stands beside a validation metric."""

from gankd.sweep.scoring import main_scores


def test_the_score_that_answers_to_the_objective() -> None:
    scores = {
        "ft/test_intra_fid_classifier": 1.0,
        "ft/test_fid_classifier": 2.0,
        "ft/test_kid_classifier": 3.0,
        "teacher/test_accuracy": 4.0,
    }
    assert main_scores(scores, "ft/fid_classifier") == {"ft": 2.0, "teacher": 4.0}
    assert main_scores({"student/test_accuracy": 5.0}, "student/val_accuracy") == {"student": 5.0}
    assert main_scores({"student/test_accuracy": 5.0}, "student/loss") == {"student": 5.0}
