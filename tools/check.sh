#!/bin/bash
# The checks that need no running program. Prints the name of each and what it
# finds; ends with exit 1 if one of them found something.
set -u
cd "$(dirname "$0")/.."

failed=0

# check NAME COMMAND...: runs the command, quiet unless it fails.
check() {
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then
		echo "check: $name: ok"
	else
		echo "check: $name: FAILED"
		sed 's/^/    /' <<<"$out"
		failed=1
	fi
}

formatted() {
	local files
	files=$(gofmt -l .) || return 1
	[ -z "$files" ] || { echo "$files" "(run gofmt -w)" && return 1; }
}

scripts() {
	local file
	for file in tools/*.sh tools/lib/*.sh tools/lib/programs/*.sh .ci/run; do
		bash -n "$file" || return 1
	done
}

# vulnerabilities asks for the known ones that this code can reach. Without the
# network there is nothing to ask, which is said and is no failure.
vulnerabilities() {
	local out
	if out=$(go tool govulncheck ${GOVULNDB:+-db="$GOVULNDB"} ./... 2>&1); then
		echo "check: govulncheck: ok"
	elif grep -q 'fetching vulnerabilities' <<<"$out"; then
		echo "check: govulncheck: its database cannot be reached, not checked (GOVULNDB=URL names another)"
	else
		echo "check: govulncheck: FAILED"
		sed 's/^/    /' <<<"$out"
		failed=1
	fi
}

check gofmt formatted
check "go vet" go vet ./...
check staticcheck go tool staticcheck ./...
check "imports, system calls, generated text" go test ./internal/project ./internal/protodoc
check "man pages" mandoc -T lint -W warning man/*.[18]
check "shell scripts" scripts
check "go.mod" go mod verify
vulnerabilities
exit $failed
