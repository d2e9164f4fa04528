// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "hearth/snapshot/v1/snapshot.pb.h"

namespace hearth::control {

// Which of a set of hosts run each other's snapshots.
struct Sharing {
  // Indices of hosts, ascending. Within a group each host runs the snapshots of every other. The
  // largest group first, equally large ones by their first host.
  std::vector<std::vector<size_t>> groups;

  // Of two groups, in each direction.
  struct Relation {
    size_t made_in = 0;  // Indices of groups.
    size_t here = 0;
    // HostDifferences(); empty: snapshots made in `made_in` run in `here`, too.
    std::vector<std::string> differences;
  };
  std::vector<Relation> relations;
};

// By HostDifferences(). Takes time in the square of the number of groups.
Sharing FindSharing(const std::vector<hearth::snapshot::v1::Host>& hosts);

}  // namespace hearth::control
