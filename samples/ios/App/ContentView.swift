import AdabetOnnx
import PhotosUI
import SwiftUI

struct ContentView: View {
    @ObservedObject var session: Session
    @State private var items: [PhotosPickerItem] = []

    var body: some View {
        NavigationStack {
            List {
                photographs
                choosing
                training
                if let message = session.message { Section { Text(message).foregroundStyle(.red) } }
            }
            .navigationTitle("Learn from photographs")
        }
    }

    private var photographs: some View {
        Section("1. Photographs") {
            PhotosPicker("Add photographs", selection: $items, matching: .images)
                .disabled(session.isBusy)
                .onChange(of: items) { chosen in
                    guard !chosen.isEmpty else { return }
                    Task {
                        await session.add(chosen)
                        items = []
                    }
                }
            ForEach($session.photographs) { $photograph in
                HStack {
                    Image(uiImage: photograph.picture).resizable().scaledToFill()
                        .frame(width: 56, height: 56).clipShape(RoundedRectangle(cornerRadius: 8))
                        .accessibilityHidden(true)
                    Picker("Label", selection: $photograph.label) {
                        ForEach(session.classes.indices, id: \.self) { Text(session.classes[$0]).tag($0) }
                    }
                }
            }
            .onDelete { session.photographs.remove(atOffsets: $0) }
        }
    }

    private var choosing: some View {
        Section("2. What to train") {
            Button("Look at the photographs") { session.score() }
                .disabled(session.isBusy || session.photographs.count < 8)
            if let scored = session.scored { ProgressView(value: Double(scored.done), total: Double(scored.of)) }
            if let choice = session.choice {
                Text("\(choice.entry), with \(choice.bytes / 1_000_000) MB of memory")
            } else if session.photographs.count < 8 {
                Text("Eight photographs or more are needed.").foregroundStyle(.secondary)
            }
        }
    }

    private var training: some View {
        Section("3. Training") {
            Button("Train") { session.train() }.disabled(session.isBusy || session.choice == nil)
            if let progress = session.progress {
                ProgressView(value: Double(progress.step), total: Double(progress.epochs * progress.stepsPerEpoch))
                Text("Round \(progress.epoch) of \(progress.epochs), loss \(progress.loss, specifier: "%.3f")")
            }
            if let why = session.why { Text(why).foregroundStyle(.orange) }
            if session.isBusy { Button("Stop", role: .destructive) { session.stop() } }
            if let file = session.shared { ShareLink("Share what was learned", item: file) }
        }
    }
}
