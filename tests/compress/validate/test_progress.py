from compress.validate.progress import Ticker


def test_phases_follow_one_another_and_what_is_not_needed_is_skipped() -> None:
    told: list[tuple[int, int, str]] = []
    ticker = Ticker(lambda *at: told.append(at), 30)
    first, second = ticker.of("tune", 20), ticker.of("gguf", 10)
    answers, drift = first.phase("answers", 10), second.phase("drift", 10)
    told.clear()
    answers(2, 4)
    answers(4, 4)
    drift(0, 5)
    drift(5, 5)
    assert told == [
        (5, 30, "tune: answers"),
        (10, 30, "tune: answers"),
        (20, 30, "gguf: drift"),
        (30, 30, "gguf: drift"),
    ]
