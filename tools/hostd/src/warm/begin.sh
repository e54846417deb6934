cd /
line_break='
'
# Puts accounts, which are lines that begin with a name, in the place of those of the same names in a file.
merge() {
    all=$line_break$1
    while IFS= read -r line || [ -n "$line" ]; do
        case $all in
        *"$line_break${line%%:*}:"*) ;;
        *) all=$all$line$line_break ;;
        esac
    done <"$2"
    printf %s "${all#"$line_break"}" >"$2"
}
