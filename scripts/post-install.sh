#!/bin/bash
# Creates the group whose members may use the system's remountd. As root, once.
set -euo pipefail
if ! getent group remountd >/dev/null; then
    groupadd --system remountd
    echo "created the group remountd: usermod -aG remountd USER lets a user in"
fi
