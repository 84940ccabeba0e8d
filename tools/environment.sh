# Sourced by the scripts that make virtual environments below .cache, with set -euo pipefail, in the checkout's root. They define
#   made            prints what the environment is made of; when that is another, it is made anew. Its scripts name its folder,
#                   so one that was moved has to be made anew too: let it print the folder.
#   install FOLDER  installs what is due into the new environment, and runs what has to run there.

# environment makes the environment and prints its folder. Does nothing when it is there. May be called many times at once: the
# first makes it, the others wait. Everything but the folder goes to standard error. WHAT needs a Python from LOWEST to HIGHEST
# with the venv module; the variable VARIABLE names one that is not among the candidates, which are looked for on PATH.
# usage: environment FOLDER WHAT LOWEST HIGHEST VARIABLE CANDIDATE...
environment() {
	local folder=$1 python
	if ! complete "$folder"; then
		python=$(find_python "${@:2}")
		# The lock goes when this shell does, however it ends. Python takes it, because not every system has flock(1).
		exec 9>"$folder.lock"
		"$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
		if ! complete "$folder"; then
			echo "Making $folder; this takes up to a minute, once." >&2
			rm -rf "$folder"
			"$python" -m venv "$folder" >&2 9>&-
			install "$folder" >&2 9>&-
			made >"$folder/made-of.txt" # last: it says that the rest is there
		fi
	fi
	echo "$folder"
}

# complete says that the folder was made to its end, of what is due.
complete() { [[ -f $1/made-of.txt && $(made) == "$(cat "$1/made-of.txt")" ]]; }

find_python() {
	local what=$1 lowest=$2 highest=$3 variable=$4 candidate
	shift 4
	for candidate in ${!variable:-"$@"}; do
		if "$candidate" -c 'import sys, venv
lowest, highest = (tuple(map(int, v.split("."))) for v in sys.argv[1:])
sys.exit(not lowest <= sys.version_info[:2] <= highest)' "$lowest" "$highest" 2>/dev/null; then
			echo "$candidate"
			return
		fi
	done
	echo "$what needs a Python from $lowest to $highest with the venv module, and there is none on PATH; $variable can name one" >&2
	return 1
}
