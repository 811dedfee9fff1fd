"""What clients do and what happens to them."""

from __future__ import annotations

import signal

from fitq import Client
from fitq_shared.errors import ResultsLost, SubmissionNotFound
from tests.faults.clients import BAD_INPUT, Order, WrongAnswer, check_failure, persist
from tests.faults.load import first_half
from tests.faults.storm import Storm


def kill_a_client_amid_its_submission(storm: Storm) -> None:
    """It is submitted again under its key."""
    order = storm.clients.order(storm.random.choice(storm.works))
    process = storm.clients.start_submitting(order)
    storm.pass_time(0.3, 1.2)
    process.kill()
    process.communicate()
    storm.clients.submit_later(order, by_command=False)


def interrupt_a_follower(storm: Storm) -> None:
    """It goes on behind the cursor that it was told."""
    follower = storm.clients.follow(storm.random.choice(storm.clients.submitted() or [storm.order_now()]))
    storm.pass_time(0.5, 2.0)
    follower.interrupt()


def stop_a_follower_for_a_while(storm: Storm) -> None:
    """A slow reader."""
    follower = storm.clients.follow(storm.random.choice(storm.clients.submitted() or [storm.order_now()]))
    storm.pass_time(0.3, 1.0)
    follower.process.send_signal(signal.SIGSTOP)
    storm.pass_time(1.0, 2.0)
    follower.process.send_signal(signal.SIGCONT)


def submit_twice_under_one_key(storm: Storm) -> None:
    """Both get the same submission."""
    order = storm.clients.order(storm.random.choice(storm.works))
    processes = [storm.clients.start_submitting(order) for _ in range(2)]
    told = set()
    for process in processes:
        output, errors = process.communicate()
        if process.returncode == 0:
            told.add(output.split()[0])
        else:
            check_failure(process.returncode, errors)
    storm.clients.submit(order)
    if told - {order.submission} and not storm.forgotten:
        raise WrongAnswer(f"{order.key} is {order.submission}, and was {told}")


def submit_other_jobs_under_one_key(storm: Storm) -> None:
    """The later one is refused, and changes nothing."""
    order = storm.order_now()
    other = storm.random.choice([work for work in storm.works if work != order.work])
    process = storm.clients.start_submitting(Order(other, order.key, order.settings))
    _, errors = process.communicate()
    if process.returncode != BAD_INPUT:
        check_failure(process.returncode, errors)


def race_for_a_key_with_fewer_jobs(storm: Storm) -> None:
    """Two submit under one key at once, one of them only the first half of the jobs: one is accepted at most."""
    order = storm.clients.order(storm.random.choice([work for work in storm.works if work.job_count > 1]))
    half = Order(first_half(order.work, storm.folder), order.key, order.settings)
    rivals = [order, half]
    if [*storm.clients.race(rivals)].count(True) > 1:
        raise WrongAnswer(f"{order.key} was accepted for all jobs and for half of them")
    if half.submission:
        order.work = half.work
    order.submission = order.submission or half.submission
    if not order.submission:  # each has added chunks that the other one does not have
        _delete(storm, order, storm.clients.id_of(order.key))


def delete_a_submission(storm: Storm) -> None:
    """Amid its fits, perhaps."""
    order = storm.order_now()
    storm.pass_time(0.0, 1.0)
    _delete(storm, order, order.submission)


def cancel_a_submission(storm: Storm) -> None:
    """What is fitted stays."""
    order = storm.order_now()
    storm.pass_time(0.0, 1.0)
    client = Client(order.settings)
    persist(lambda: client.submission(order.submission).cancel())
    storm.server.note_safe()
    order.fate = "cancelled"


def let_a_submission_expire(storm: Storm) -> None:
    """Its time to live is shorter than its fits."""
    order = storm.clients.order(storm.random.choice(storm.works), ttl_seconds=1)
    storm.clients.submit(order)
    order.fate = "expired"


def damage_result_files(storm: Storm) -> None:
    """Whoever reads them is told so, until what was there is back."""
    order = storm.clients.order(storm.random.choice(storm.works), in_files=True)
    storm.clients.submit(order)
    client = Client(order.settings)
    submission = client.submission(order.submission)
    persist(submission.wait)
    stray = {path for _, path in persist(client.find_garbage).files}
    files = sorted((storm.folder / "results" / order.submission).glob("results-*"))
    file = storm.random.choice([file for file in files if f"{order.submission}/{file.name}" not in stray])
    intact = file.read_bytes()
    file.write_bytes(_damaged(intact, storm))
    if persist(submission.results, ResultsLost) is not None:
        raise WrongAnswer(f"nobody was told that {file} is damaged")
    file.write_bytes(intact)


def _delete(storm: Storm, order: Order, submission: str) -> None:
    client = Client(order.settings)
    persist(lambda: client.submission(submission).delete(), SubmissionNotFound)
    storm.server.note_safe()
    order.submission, order.fate = submission, "deleted"


def _damaged(intact: bytes, storm: Storm) -> bytes:
    middle = len(intact) // 2
    flipped = intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :]
    return storm.random.choice([b"", intact[:middle], flipped])
