// SPDX-License-Identifier: Apache-2.0
// The URI of libvirt's driver that runs in this process, qemu:///embed?root=FOLDER.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace hearth::libvirt {

bool IsEmbedded(absl::string_view uri);
// FOLDER, as libvirt takes it from the URI; empty for other URIs, and when there is none.
std::string EmbeddedRoot(absl::string_view uri);
std::string EmbeddedUri(absl::string_view root);

// RFC 3986 2.1, of a path: all but letters, digits and "-._~/" as %XX, which has a meaning neither
// in a URI nor in XML.
std::string PercentEncode(absl::string_view path);

}  // namespace hearth::libvirt
