// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/saved_devices.h"

#include <algorithm>
#include <limits>

namespace hearth::vmm {
namespace {

// `field` names the value in the error.
template <typename To>
absl::StatusOr<To> Narrow(uint32_t value, absl::string_view field) {
  if (value > std::numeric_limits<To>::max()) {
    return absl::InvalidArgumentError(absl::StrCat("saved ", field, " is ", value,
                                                   ", the limit is ",
                                                   uint64_t{std::numeric_limits<To>::max()}));
  }
  return static_cast<To>(value);
}

v1::SavedSerial SaveSerial(const SerialState& state) {
  v1::SavedSerial saved;
  saved.set_interrupt_enable(state.interrupt_enable);
  saved.set_fifo_control(state.fifo_control);
  saved.set_line_control(state.line_control);
  saved.set_modem_control(state.modem_control);
  saved.set_scratch(state.scratch);
  saved.set_divisor(uint32_t{state.divisor_high} << 8 | state.divisor_low);
  saved.set_transmit_interrupt(state.thr_empty_pending);
  saved.set_overrun(state.overrun);
  for (size_t i = 0; i < state.input_count; ++i) {
    const uint8_t byte = state.input[(state.input_head + i) % kSerialInputFifoBytes];
    saved.mutable_received()->push_back(static_cast<char>(byte));
  }
  return saved;
}

absl::StatusOr<SerialState> ParseSerial(const v1::SavedSerial& saved) {
  SerialState state;
  ASSIGN_OR_RETURN(state.interrupt_enable,
                   Narrow<uint8_t>(saved.interrupt_enable(), "serial.interrupt_enable"));
  ASSIGN_OR_RETURN(state.fifo_control,
                   Narrow<uint8_t>(saved.fifo_control(), "serial.fifo_control"));
  ASSIGN_OR_RETURN(state.line_control,
                   Narrow<uint8_t>(saved.line_control(), "serial.line_control"));
  ASSIGN_OR_RETURN(state.modem_control,
                   Narrow<uint8_t>(saved.modem_control(), "serial.modem_control"));
  ASSIGN_OR_RETURN(state.scratch, Narrow<uint8_t>(saved.scratch(), "serial.scratch"));
  ASSIGN_OR_RETURN(const uint16_t divisor, Narrow<uint16_t>(saved.divisor(), "serial.divisor"));
  state.divisor_low = static_cast<uint8_t>(divisor);
  state.divisor_high = static_cast<uint8_t>(divisor >> 8);
  state.thr_empty_pending = saved.transmit_interrupt();
  state.overrun = saved.overrun();
  if (saved.received().size() > state.input.size()) {
    return absl::InvalidArgumentError(absl::StrCat("saved serial.received has ",
                                                   saved.received().size(), " bytes, the limit is ",
                                                   state.input.size()));
  }
  std::copy(saved.received().begin(), saved.received().end(), state.input.begin());
  state.input_count = static_cast<uint8_t>(saved.received().size());
  return state;
}

void SaveQueue(const VirtqueueState& state, v1::SavedQueue& saved) {
  saved.set_size(state.size);
  saved.set_ready(state.ready);
  saved.set_broken(state.broken);
  saved.set_descriptors(state.descriptors.value());
  saved.set_driver_area(state.driver_area.value());
  saved.set_device_area(state.device_area.value());
  saved.set_next_avail(state.next_avail);
  saved.set_next_used(state.next_used);
  saved.set_signalled_used(state.signalled_used);
}

absl::StatusOr<VirtqueueState> ParseQueue(const v1::SavedQueue& saved) {
  VirtqueueState state;
  ASSIGN_OR_RETURN(state.size, Narrow<uint16_t>(saved.size(), "queue.size"));
  state.ready = saved.ready();
  state.broken = saved.broken();
  state.descriptors = GuestAddress(saved.descriptors());
  state.driver_area = GuestAddress(saved.driver_area());
  state.device_area = GuestAddress(saved.device_area());
  ASSIGN_OR_RETURN(state.next_avail, Narrow<uint16_t>(saved.next_avail(), "queue.next_avail"));
  ASSIGN_OR_RETURN(state.next_used, Narrow<uint16_t>(saved.next_used(), "queue.next_used"));
  ASSIGN_OR_RETURN(state.signalled_used,
                   Narrow<uint16_t>(saved.signalled_used(), "queue.signalled_used"));
  return state;
}

absl::Status SaveTransport(const MmioTransport& transport, v1::SavedTransport& saved) {
  const MmioTransportState state = transport.state();
  saved.set_status(StatusBits(state.status) | state.bits_when_failed);
  saved.set_needs_reset(state.needs_reset);
  saved.set_device_features_select(state.device_features_select);
  saved.set_driver_features_select(state.driver_features_select);
  saved.set_queue_select(state.queue_select);
  saved.set_interrupt_status(state.interrupt_status);
  saved.set_config_generation(state.config_generation);
  saved.set_driver_features(state.driver_features);
  const bool working = state.status == DriverStatus::kRunning && !state.needs_reset;
  for (size_t i = 0; i < transport.queue_count(); ++i) {
    const VirtqueueState& queue = state.queues[i];
    if (working && queue.next_avail != queue.next_used) {
      return absl::InternalError(absl::StrCat("queue ", i, " has requests in flight"));
    }
    SaveQueue(queue, *saved.add_queues());
  }
  return absl::OkStatus();
}

absl::StatusOr<MmioTransportState> ParseTransport(const v1::SavedTransport& saved,
                                                  size_t queue_count) {
  if (static_cast<size_t>(saved.queues_size()) != queue_count) {
    return absl::InvalidArgumentError(
        absl::StrCat("saved with ", saved.queues_size(), " queues, it has ", queue_count));
  }
  MmioTransportState state;
  ASSIGN_OR_RETURN(const uint8_t bits, Narrow<uint8_t>(saved.status(), "transport.status"));
  const auto status = StatusFromBits(bits);
  if (!status) {
    return absl::InvalidArgumentError(
        absl::StrCat("saved transport.status is ", bits, ", which no driver gets to"));
  }
  state.status = *status;
  if (state.status == DriverStatus::kFailed) {
    state.bits_when_failed = bits & static_cast<uint8_t>(~kStatusFailed);
  }
  state.needs_reset = saved.needs_reset();
  state.device_features_select = saved.device_features_select();
  state.driver_features_select = saved.driver_features_select();
  state.queue_select = saved.queue_select();
  state.interrupt_status = saved.interrupt_status();
  state.config_generation = saved.config_generation();
  state.driver_features = saved.driver_features();
  for (size_t i = 0; i < queue_count; ++i) {
    ASSIGN_OR_RETURN(state.queues[i], ParseQueue(saved.queues(static_cast<int>(i))));
  }
  return state;
}

// What each kind of device has of its own. CheckFit comes before the transport is restored,
// RestoreOwn after it.
struct SaveOwn {
  v1::SavedVirtio& saved;
  void operator()(const Block* block) const {
    saved.mutable_block()->set_serial(block->serial());
    saved.mutable_block()->set_read_only(block->read_only());
    saved.mutable_block()->set_sectors(block->capacity_sectors());
  }
  void operator()(const Rng*) const {}
  void operator()(const Vsock* vsock) const {
    const VsockDeviceState state = vsock->state();
    v1::SavedVsock& own = *saved.mutable_vsock();
    own.set_guest_cid(state.guest_cid);
    for (const uint32_t port : state.host_ports) own.add_host_ports(port);
    own.set_next_host_port(state.next_host_port);
    own.set_reset_unanswered(state.reset_unanswered);
    own.set_reset_avail(state.reset_avail);
  }
};

struct CheckFit {
  const v1::SavedVirtio& saved;
  MmioTransportState& transport;

  absl::Status operator()(const Block* block) const {
    if (!saved.has_block()) return absl::InvalidArgumentError("saved without its disk's data");
    const v1::SavedBlock& own = saved.block();
    if (own.serial() != block->serial()) {
      return absl::FailedPreconditionError("the disk has another serial than the saved one");
    }
    if (own.sectors() != block->capacity_sectors()) {
      return absl::FailedPreconditionError(absl::StrCat("the disk has ", block->capacity_sectors(),
                                                        " sectors, the saved one ", own.sectors()));
    }
    if (own.read_only() != block->read_only()) {
      return absl::FailedPreconditionError(own.read_only() ? "the saved disk was read-only"
                                                           : "the saved disk was writable");
    }
    return absl::OkStatus();
  }
  absl::Status operator()(const Rng*) const {
    if (saved.device_case() == v1::SavedVirtio::DEVICE_NOT_SET) return absl::OkStatus();
    return absl::InvalidArgumentError("saved with data of another device");
  }
  // The transport reset makes a driver that runs fetch its CID again (5.10.6.7).
  absl::Status operator()(const Vsock* vsock) const {
    if (!saved.has_vsock()) return absl::InvalidArgumentError("saved without its CID");
    if (saved.vsock().guest_cid() == vsock->guest_cid()) return absl::OkStatus();
    const DriverStatus status = transport.status;
    if (status == DriverStatus::kAcknowledged || status == DriverStatus::kDriver ||
        status == DriverStatus::kFeaturesOk) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the guest may have read its CID just now: it must stay ", saved.vsock().guest_cid()));
    }
    ++transport.config_generation;
    return absl::OkStatus();
  }
};

struct RestoreOwn {
  const v1::SavedVirtio& saved;
  absl::Status operator()(Block*) const { return absl::OkStatus(); }
  absl::Status operator()(Rng*) const { return absl::OkStatus(); }
  absl::Status operator()(Vsock* vsock) const {
    const v1::SavedVsock& own = saved.vsock();
    VsockDeviceState state;
    state.guest_cid = own.guest_cid();
    if (static_cast<size_t>(own.host_ports_size()) > kVsockMaxPorts) {
      return absl::InvalidArgumentError("saved with more host ports than a device has");
    }
    state.host_ports.assign(own.host_ports().begin(), own.host_ports().end());
    state.next_host_port = own.next_host_port();
    state.reset_unanswered = own.reset_unanswered();
    ASSIGN_OR_RETURN(state.reset_avail, Narrow<uint16_t>(own.reset_avail(), "vsock.reset_avail"));
    return vsock->Restore(state);
  }
};

absl::Status RestoreVirtio(const v1::SavedVirtio& saved, const SavableVirtio& view) {
  if (saved.device_id() != view.transport->device().device_id()) {
    return absl::FailedPreconditionError(
        absl::StrCat("a device of VIRTIO type ", saved.device_id(), " was saved in its place"));
  }
  ASSIGN_OR_RETURN(MmioTransportState state,
                   ParseTransport(saved.transport(), view.transport->queue_count()));
  RETURN_IF_ERROR(std::visit(CheckFit{saved, state}, view.device));
  RETURN_IF_ERROR(view.transport->Restore(state));
  return std::visit(RestoreOwn{saved}, view.device);
}

absl::Status InDevice(size_t index, const SavableVirtio& view, const absl::Status& status) {
  if (status.ok()) return status;
  const std::string_view name = view.transport->device().name();
  return Annotate(status, absl::StrCat("virtio device ", index, " (",
                                       absl::string_view(name.data(), name.size()), ")"));
}

}  // namespace

absl::StatusOr<v1::SavedDevices> SaveDevices(const SavableDevices& devices) {
  v1::SavedDevices saved;
  *saved.mutable_serial() = SaveSerial(devices.serial->state());
  for (size_t i = 0; i < devices.virtio.size(); ++i) {
    const SavableVirtio& view = devices.virtio[i];
    v1::SavedVirtio& virtio = *saved.add_virtio();
    virtio.set_device_id(view.transport->device().device_id());
    RETURN_IF_ERROR(InDevice(i, view, SaveTransport(*view.transport, *virtio.mutable_transport())));
    std::visit(SaveOwn{virtio}, view.device);
  }
  return saved;
}

absl::Status RestoreDevices(const v1::SavedDevices& saved, const SavableDevices& devices) {
  if (static_cast<size_t>(saved.virtio_size()) != devices.virtio.size()) {
    return absl::FailedPreconditionError(absl::StrCat("the machine has ", devices.virtio.size(),
                                                      " virtio devices, the saved one had ",
                                                      saved.virtio_size()));
  }
  if (!saved.has_serial()) return absl::InvalidArgumentError("saved without its serial port");
  ASSIGN_OR_RETURN(const SerialState serial, ParseSerial(saved.serial()));
  RETURN_IF_ERROR(devices.serial->Restore(serial));
  for (size_t i = 0; i < devices.virtio.size(); ++i) {
    const SavableVirtio& view = devices.virtio[i];
    RETURN_IF_ERROR(InDevice(i, view, RestoreVirtio(saved.virtio(static_cast<int>(i)), view)));
  }
  for (const SavableVirtio& view : devices.virtio) view.transport->ResumeRestored();
  return absl::OkStatus();
}

}  // namespace hearth::vmm
