// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/sharing.h"

#include <algorithm>

#include "control-plane/snapshots/host.h"

namespace hearth::control {
namespace {

namespace pb = hearth::snapshot::v1;

// An equivalence: equal but for the kernel.
bool RunEachOthers(const pb::Host& one, const pb::Host& other) {
  return HostDifferences(one, other).empty() && HostDifferences(other, one).empty();
}

}  // namespace

Sharing FindSharing(const std::vector<pb::Host>& hosts) {
  Sharing sharing;
  for (size_t host = 0; host < hosts.size(); ++host) {
    const auto group = std::find_if(
        sharing.groups.begin(), sharing.groups.end(),
        [&](const auto& members) { return RunEachOthers(hosts[members.front()], hosts[host]); });
    if (group == sharing.groups.end()) {
      sharing.groups.push_back({host});
    } else {
      group->push_back(host);
    }
  }
  std::stable_sort(sharing.groups.begin(), sharing.groups.end(),
                   [](const auto& one, const auto& other) { return one.size() > other.size(); });
  for (size_t made_in = 0; made_in < sharing.groups.size(); ++made_in) {
    for (size_t here = 0; here < sharing.groups.size(); ++here) {
      if (made_in == here) continue;
      sharing.relations.push_back({made_in, here,
                                   HostDifferences(hosts[sharing.groups[made_in].front()],
                                                   hosts[sharing.groups[here].front()])});
    }
  }
  return sharing;
}

}  // namespace hearth::control
