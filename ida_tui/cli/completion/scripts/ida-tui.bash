# Completions of ida-tui for bash (3.2 and later).
#   ida-tui completions bash > ~/.local/share/bash-completion/completions/ida-tui
_ida_tui() {
    local candidate IFS=$'\n'
    COMPREPLY=()
    while read -r candidate; do
        COMPREPLY+=("$candidate")
    done < <("${COMP_WORDS[0]}" __complete bash "$COMP_WORDBREAKS" "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
}
# nospace: a candidate that completes the word already ends with a space.
complete -o nospace -F _ida_tui ida-tui
