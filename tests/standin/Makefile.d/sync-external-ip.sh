#!/bin/sh
# Runs in the lead's node: gives each registered node the external IP that it registered with.
set -eu

nodes=$(kubectl get nodes -o name)
for node in $nodes; do
	place=/var/lib/standin/nodes/${node#node/}
	cp "$place/host-ip" "$place/external-ip"
	echo "stand-in: external IP of ${node#node/}: $(cat "$place/external-ip")"
done
