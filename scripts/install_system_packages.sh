#!/usr/bin/env bash
# Installs what some tests need from the system (Debian or Ubuntu). Does nothing when all of it is there.
# Without it those tests are skipped by name and the rest runs.
set -euo pipefail

# chromium: the tests that open a page in a headless browser.
# slurm-wlm, munge: the tests of sweeps on a real Slurm (scripts/slurm_cluster.sh).
packages=(chromium slurm-wlm munge)
# kubectl: the tests of GKE. Google's package of that name will do as well.
command -v kubectl >/dev/null || packages+=(kubernetes-client)

missing=()
for package in "${packages[@]}"; do
    if dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed; then
        echo "system package $package: present"
    else
        missing+=("$package")
    fi
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "error: installing ${missing[*]} needs root; run this as root." >&2; exit 2; }
    as_root=(sudo)
fi
command -v apt-get >/dev/null || { echo "error: no apt-get here; install ${missing[*]} by hand." >&2; exit 2; }
echo "system packages to install: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
