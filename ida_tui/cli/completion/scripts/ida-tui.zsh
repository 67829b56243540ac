#compdef ida-tui
# Completions of ida-tui for zsh.
#   ida-tui completions zsh > "${fpath[1]}/_ida-tui"
_ida-tui() {
    local candidate about
    local -a whole part
    local -a typed=("${(@)words[2,CURRENT]}")
    typed[-1]="$PREFIX"
    while IFS=$'\t' read -r candidate about; do
        candidate="${candidate//:/\\:}${about:+:$about}"
        case "${candidate%%:*}" in
            *=|*.|*/) part+=("$candidate") ;;
            *) whole+=("$candidate") ;;
        esac
    done < <("${words[1]}" __complete zsh "${(@)typed}" 2>/dev/null)
    (( $#part )) && _describe -V 'ida-tui' part -S ''
    (( $#whole )) && _describe -V 'ida-tui' whole
    (( $#part + $#whole ))
}
if [ "$funcstack[1]" = "_ida-tui" ]; then
    _ida-tui "$@"
else
    compdef _ida-tui ida-tui
fi
