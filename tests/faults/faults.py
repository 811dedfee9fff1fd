"""All faults, each a function with the name of what it does."""

from __future__ import annotations

from tests.faults import client_faults as client
from tests.faults import message_faults as message
from tests.faults import server_faults as server
from tests.faults import worker_faults as worker
from tests.faults.storm import Fault

FAULTS: list[Fault] = [
    worker.kill_a_fitting_process,
    worker.kill_a_main_process,
    worker.kill_a_supervisor,
    worker.kill_all_workers,
    worker.freeze_a_fitting_process_beyond_its_lease,
    worker.freeze_a_worker_beyond_its_lease,
    worker.terminate_a_worker_and_start_it_again,
    worker.restart_all_workers_one_by_one,
    server.kill_the_server,
    server.restart_the_server,
    server.freeze_the_server,
    server.tear_the_end_off_the_servers_file,
    server.cut_all_connections,
    server.flush_the_scripts,
    server.keep_the_server_busy_with_a_script,
    server.let_the_memory_run_out,
    server.let_the_disk_run_full,
    server.make_the_server_a_replica,
    server.change_the_password_and_back,
    message.drop_messages,
    message.double_messages,
    message.delete_the_lanes,
    message.forget_the_messages_that_were_taken,
    message.give_all_messages_back_at_once,
    client.kill_a_client_amid_its_submission,
    client.interrupt_a_follower,
    client.stop_a_follower_for_a_while,
    client.submit_twice_under_one_key,
    client.submit_other_jobs_under_one_key,
    client.race_for_a_key_with_fewer_jobs,
    client.delete_a_submission,
    client.cancel_a_submission,
    client.let_a_submission_expire,
    client.damage_result_files,
]
