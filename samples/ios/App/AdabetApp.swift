import SwiftUI

@main
struct AdabetApp: App {
    @StateObject private var session = Session()

    var body: some Scene {
        WindowGroup { ContentView(session: session).task { await session.open() } }
    }
}
