"""What a Databricks run of a flytekit task can start with, in the place of the file that flytekit's connector has fetched from
GitHub. It gets the task's command as its parameters, and has flytekit carry it out in this process, where Spark's session is.

Put it where Databricks finds it, such as /Workspace/Shared/flyte/entrypoint.py, and name it in FLYTE_DATABRICKS_ENTRYPOINT.
flytekit has to be installed where it runs.
"""

import os
import sys


def main(command):
    # A run that failed should show. On a cluster that exists, the task's environment does not say so.
    os.environ.setdefault("FLYTE_FAIL_ON_ERROR", "true")
    from flytekit.bin import entrypoint
    from flytekit.tools.fast_registration import download_distribution

    sys.path += [os.getcwd(), "/root"]  # where images have their code
    name, *arguments = command
    if name == "pyflyte-fast-execute":
        # The code is somewhere else, and the command comes after it.
        given = entrypoint.fast_execute_task_cmd.make_context(name, arguments).params
        folder = os.path.abspath(given["dest_dir"] or os.getcwd())
        download_distribution(given["additional_distribution"], folder)
        os.chdir(folder)
        sys.path.insert(0, folder)
        name, *arguments = given["task_execute_cmd"]
        at = arguments.index("--resolver")
        arguments[at:at] = ["--dynamic-addl-distro", given["additional_distribution"], "--dynamic-dest-dir", folder]
    commands = {"pyflyte-execute": entrypoint.execute_task_cmd, "pyflyte-map-execute": entrypoint.map_execute_task_cmd}
    commands[name].main(arguments, standalone_mode=False)


if __name__ == "__main__":
    main(sys.argv[1:])
