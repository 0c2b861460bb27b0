# Part of tools/programs.sh.
# shellcheck shell=bash disable=SC2154 # tmp, OPS, SEED are of programs.sh

turn=20 # operations until it is the other mount's turn
export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b

prove_git() {
	need git:git
	git_run "$tmp/local" "$tmp/local" || bad "git on ext4"
	git_run "$tmp/mnt1" "$tmp/mnt2" || bad "git on the mount"
	git_state "$tmp/local" >"$tmp/out/git.ext4"
	git_state "$tmp/mnt2" >"$tmp/out/git.mount"
	git_state "$export" >"$tmp/out/git.server"
	same "git: ext4 and the mount" "$tmp/out/git.ext4" "$tmp/out/git.mount"
	same "git: the mount and the server" "$tmp/out/git.mount" "$tmp/out/git.server"
	say "git: $OPS operations, $(git -C "$tmp/local/work" rev-list --all --count) commits, $(wc -l <"$tmp/out/git.mount") lines of state"
}

# git_state DIR: all that the two repositories consist of, but for how it is packed.
git_state() (
	cd "$1/work" || exit 1
	git for-each-ref
	git -C ../bare for-each-ref
	git status --porcelain --branch
	git ls-files --stage
	find . -path ./.git -prune -o -type f -print0 | sort -z | xargs -0r sha256sum
)

# git_run DIR DIR: the same operations each time, in turn in one and the other.
git_run() {
	local dirs=("$1" "$2") i dir a b log=$tmp/out/git.log
	RANDOM=$SEED
	git init -q --bare -b main "$1/bare" && git init -q -b main "$1/work" && git -C "$1/work" remote add origin ../bare || return
	for ((i = 0; i < OPS; i++)); do
		dir=${dirs[i / turn % 2]}/work
		# A mount may show for a second what the other one has changed since.
		if [ $((i % turn)) = 0 ] && [ "$1" != "$2" ]; then sleep 1.1; fi
		export GIT_AUTHOR_DATE="$((1700000000 + i)) +0000" GIT_COMMITTER_DATE="$((1700000000 + i)) +0000"
		a=$RANDOM b=$RANDOM
		(cd "$dir" && git_operation "$i" "$a" "$b") >"$log" 2>&1 || {
			say "git: operation $i in $dir fails:" && cat "$log"
			return 1
		}
		[ $((i % 200)) != 199 ] || git_fsck "$dir" "$i" || return
	done
}

# git_fsck DIR NUMBER
git_fsck() {
	local repository
	for repository in "$1" "$1/../bare"; do
		git -C "$repository" fsck --full --strict --no-dangling --no-progress || {
			say "git: fsck of $repository after operation $2"
			return 1
		}
	done
} 2>&1

# git_operation NUMBER RANDOM RANDOM
git_operation() {
	local n=$1 file=d$(($3 % 7))/f$(($3 % 41)) branch=b$(($3 % 5))
	if [ "$n" -lt 5 ]; then git_commit "$n" "$file" && git branch "b$n"; return; fi
	case $(($2 % 16)) in
	0 | 1 | 2 | 3 | 4) git_commit "$n" "$file" ;;
	5) git checkout -q -B "$branch" ;;
	6 | 7) git checkout -q "$branch" ;;
	8) git merge -q -X ours -m "merge $n" "$branch" || git_give_up merge ;;
	9) git rebase -q -X theirs "$branch" || git_give_up rebase ;;
	10) git tag "t$n" ;;
	11) git push -q -f origin --all && git push -q --tags && git fetch -q --prune ;;
	12) git_move "$n" "$file" ;;
	13) echo "$n" >>README && git add README && git stash -q && git stash pop -q && git commit -q -a -m "stash $n" ;;
	14) git_clone "$n" ;;
	15) if [ $(($3 % 4)) = 0 ]; then git gc -q --prune=now; else git reset -q --soft HEAD~1 && git commit -q --allow-empty -m "again $n"; fi ;;
	esac
}

# git_give_up COMMAND: a conflict that no strategy solves; the tree is as before then.
git_give_up() { git "$1" --abort && git reset -q --hard && git clean -q -f -d; }

# git_commit NUMBER FILE
git_commit() {
	mkdir -p "${2%/*}" && seq "$1" $(($1 + 50)) >"$2" && echo "$1" >>README && git add -A && git commit -q -m "commit $1"
}

# git_move NUMBER FILE: renamed, or removed, or made.
git_move() {
	if [ ! -e "$2" ]; then
		git_commit "$1" "$2"
	elif [ $(($1 % 2)) = 0 ]; then
		git mv -f "$2" "moved$(($1 % 9))" && git commit -q -m "move $1"
	else
		git rm -q "$2" && git commit -q -m "remove $1"
	fi
}

# git_clone NUMBER: a clone by links and by copies, compared.
git_clone() {
	git clone -q . ../clone && git clone -q --no-local . ../copy && diff -r -x .git ../clone ../copy &&
		[ "$(git -C ../clone rev-parse HEAD)" = "$(git -C ../copy rev-parse HEAD)" ] && rm -rf ../clone ../copy
}
