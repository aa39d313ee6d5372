"""When a log that has not voted may begin to."""

from appliance.replication.recovery import Recovery


def test_a_new_log_votes_when_a_majority_never_knew_another() -> None:
    recovery = Recovery("bc", 2, recovering=True)
    assert not recovery.is_done
    assert not recovery.welcomed("b", 100, another_log=False)
    assert recovery.is_done


def test_of_five_that_takes_two_others() -> None:
    recovery = Recovery("bcde", 3, recovering=True)
    recovery.welcomed("b", 0, another_log=False)
    assert not recovery.is_done
    recovery.welcomed("c", 0, another_log=False)
    assert recovery.is_done


def test_where_nobody_else_is_needed_it_votes_at_once() -> None:
    assert Recovery("", 1, recovering=True).is_done
    assert Recovery("b", 1, recovering=True).is_done


def test_a_lost_log_needs_all_others_logs() -> None:
    recovery = Recovery("bc", 2, recovering=True)
    assert recovery.welcomed("b", 10, another_log=True)
    assert not recovery.welcomed("c", 20, another_log=True)  # no news
    recovery.reached("b", 10)
    recovery.reached("c", 19)
    assert recovery.missing == ("c",)
    assert not recovery.is_done
    recovery.reached("c", 20)
    assert recovery.is_done


def test_one_who_knew_another_log_is_enough() -> None:
    recovery = Recovery("bcde", 3, recovering=True)
    recovery.welcomed("b", 0, another_log=False)
    recovery.welcomed("c", 0, another_log=True)
    recovery.welcomed("d", 0, another_log=False)
    assert not recovery.is_done


def test_a_new_welcome_sets_a_new_mark() -> None:
    recovery = Recovery("b", 2, recovering=True)
    recovery.welcomed("b", 10, another_log=True)
    recovery.reached("b", 10)
    recovery.welcomed("b", 30, another_log=False)
    assert not recovery.is_done
    recovery.reached("b", 30)
    assert recovery.is_done


def test_what_was_taken_out_has_to_come_again() -> None:
    recovery = Recovery("b", 2, recovering=True)
    recovery.welcomed("b", 10, another_log=True)
    recovery.reached("b", 10)
    recovery.look_again()
    assert not recovery.is_done
    recovery.reached("b", 10)
    assert recovery.is_done


def test_learners_and_strangers_say_nothing() -> None:
    recovery = Recovery("bc", 2, recovering=True)
    assert not recovery.welcomed("learner", 5, another_log=True)
    recovery.reached("learner", 5)
    recovery.reached("b", 5)  # before its welcome
    assert not recovery.is_done
    assert not recovery.is_lost


def test_a_log_with_its_vote_has_nothing_to_recover() -> None:
    recovery = Recovery("bc", 2, recovering=False)
    recovery.welcomed("b", 0, another_log=False)
    assert not recovery.is_done
